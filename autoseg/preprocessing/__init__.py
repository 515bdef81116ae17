"""Crop, normalize, resample, cache."""
