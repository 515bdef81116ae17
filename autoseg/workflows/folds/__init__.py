"""State, lock and status of the folds of a run."""
