"""Training of a network: patches, augmentation, losses, optimization, the loop over the epochs, checkpoints."""
