"""What happened: runs, their traces, idle time, memory, and how they are told, shown and saved."""
