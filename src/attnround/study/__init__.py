"""Many runs: the grid of a table or sweep, its rows, and the tables, pictures and the report made from them."""
