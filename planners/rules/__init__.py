"""Planning rules, one per file: pure functions from measurements to a decision and its reason."""
