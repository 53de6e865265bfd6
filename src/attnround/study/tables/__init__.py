"""Tables: grids of runs, what their rows say, and how that is written."""
