"""How the learning rate falls."""


def compute_learning_rate(initial: float, *, epoch: int, epochs: int, exponent: float) -> float:
    """The polynomial schedule: initial * (1 - epoch / epochs) ** exponent, constant within an epoch."""
    return float(initial * (1 - epoch / epochs) ** exponent)
