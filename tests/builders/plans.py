"""Plans: complete ones that are written down, and the edits that a user may make by hand."""

import json
from pathlib import Path


def shorten(run: Path, configuration: str, *, epochs: int, iterations: int) -> None:
    """Edits the plan by hand, as a user may: a short schedule and a narrow network."""
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    chosen = plan["configurations"][configuration]
    chosen["network"]["features_per_stage"] = [8 * 2**stage for stage in range(len(chosen["network"]["strides"]))]
    chosen["training"] |= {
        "epochs": epochs,
        "iterations_per_epoch": iterations,
        "validation_iterations_per_epoch": 2,
        "batch_size": 2,
    }
    path.write_text(json.dumps(plan))
