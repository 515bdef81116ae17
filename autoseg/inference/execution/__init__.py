"""How a trained network is executed: reduced precision, compilers, batch size."""
