"""Linear algebra on tiles: textbook loops that build graphs, and the calls users make."""
