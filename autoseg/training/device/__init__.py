"""Batches made on the device that trains, without worker processes."""
