"""Rules that finish a predicted label map: connected components, holes; and which of them cross-validation accepts."""
