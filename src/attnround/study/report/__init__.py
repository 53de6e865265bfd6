"""One page of all tables and pictures."""
