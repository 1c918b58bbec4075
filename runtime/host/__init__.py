"""What the computer gives this process: cores, memory, files, a place for measurements, and rates of arithmetic."""
