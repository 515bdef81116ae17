"""Training within a time, and until scores stop rising."""
