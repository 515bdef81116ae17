"""Input that a configuration gets from another one that was trained before it, for training and for prediction."""
