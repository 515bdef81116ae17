"""Reading of cases, and the loop over cases that are predicted."""
