"""Postprocessing of predicted label maps by rules that are learned from cross-validation."""
