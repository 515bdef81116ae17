"""Output on the terminal: tables, progress bars, values of options."""
