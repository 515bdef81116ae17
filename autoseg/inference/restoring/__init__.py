"""From logits back to label maps and probabilities on the grid of the image."""
