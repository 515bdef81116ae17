"""Speed and memory, measured on whole commands."""
