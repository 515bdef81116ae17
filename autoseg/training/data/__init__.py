"""Batches of random patches, made by worker processes or on the device that trains."""
