"""Import and export of models: model files, and result folders of nnU-Net v2 in both directions."""
