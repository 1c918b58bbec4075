"""Workers with memories of their own: devices, and where data is."""
