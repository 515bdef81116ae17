"""`autoseg predict` and prediction from Python."""
