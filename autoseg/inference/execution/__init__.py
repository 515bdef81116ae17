"""Execution of a trained network: reduced precision, compilers, batch size."""
