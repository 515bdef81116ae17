"""`autoseg init`: a dataset.json for files in folders."""
