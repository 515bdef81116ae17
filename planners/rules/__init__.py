"""What planners decide by, one rule a file: pure functions from measurements to a decision and its reason."""
