"""`autoseg report` and `autoseg view`: one HTML file about a run or about images."""
