"""Random transforms of training patches: one a file, each with its forms for worker processes and for a device."""
