"""Worker processes, and their interruption by signals."""
