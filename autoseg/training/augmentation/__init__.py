"""Random transforms of training patches, one per file, each with a form for worker processes and one for a device."""
