"""Conversion of logits to label maps and probabilities on the grid of the image."""
