"""Checks of input that may come from strangers: JSON documents, and names that become paths."""
