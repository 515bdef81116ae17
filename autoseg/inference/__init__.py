"""Sliding window, mirroring, ensembles, restoring the grid."""
