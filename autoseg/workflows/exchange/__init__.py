"""`autoseg import` and `autoseg export`."""
