"""Makes a dataset.json from files that lie in folders."""
