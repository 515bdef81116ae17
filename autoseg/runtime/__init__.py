"""How this machine computes: devices, number formats, threads, memory, teams of processes."""
