"""Tests with a real Slurm; `make cluster-test` runs them."""
