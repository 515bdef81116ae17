"""Monitoring of a training: log, metrics, TensorBoard files, experiment trackers, progress picture."""
