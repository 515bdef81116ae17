"""`autoseg evaluate`, validation of folds and cross-validation."""
