"""Driver processes: their parents, environments, walls and limits, and who watches them."""
