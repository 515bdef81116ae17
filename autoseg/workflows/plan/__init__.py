"""`autoseg plan`, `check` and `preprocess`: from raw data to a plan and preprocessed arrays."""
