"""Quality of predictions without a reference: features, calibrated estimates, and flags."""
