"""Kills commands at random moments, repeats them, and compares what is there with an undisturbed run."""
