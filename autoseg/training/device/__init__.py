"""Patches made on the device that trains: no worker processes, the same distributions as on the processor."""
