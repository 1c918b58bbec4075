"""Side-by-side measurements: JSON lines in, plots out."""
