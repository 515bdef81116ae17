"""The computing environment: devices, dtypes, threads, memory, process groups."""
