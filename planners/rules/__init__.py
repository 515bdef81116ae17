"""Planning rules, one a file: pure functions from measurements to a decision and its reason."""
