"""`autoseg train`: single folds and the queue over all of them."""
