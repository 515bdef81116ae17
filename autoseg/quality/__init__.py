"""How good a prediction is without a reference: features, calibrated estimates, and what training data never showed."""
