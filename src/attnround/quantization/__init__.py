"""Pure torch: the grid, the scale search, the rounding methods and the layers that hold integers."""
