"""Pictures, of a run and of tables."""
