"""Checks what headers say before a library allocates memory for it or reads files that it names."""
