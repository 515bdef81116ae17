"""Tensor operations that transforms on a device use."""
