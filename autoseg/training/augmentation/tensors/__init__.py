"""Tensor operations of which transforms on a device are made."""
