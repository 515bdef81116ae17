"""Models of other tools, and models for other tools: nnU-Net v2's result folders in both directions."""
