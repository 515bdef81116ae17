"""Prediction of a volume window by window, with mirrored views."""
