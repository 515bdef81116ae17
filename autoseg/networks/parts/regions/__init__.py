"""Regions of Mask R-CNN: proposals, aligned features, heads, and the map into which objects are drawn."""
