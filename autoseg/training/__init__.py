"""How a network is trained: folds, patches, augmentation, loss, one epoch after the other, checkpoints."""
