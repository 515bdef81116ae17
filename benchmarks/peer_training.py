"""Trains a few epochs with nnU-Net's trainer and times them; run by the interpreter of its own environment.

Arguments: the preprocessed dataset, the configuration, the device, the number of epochs, the iterations of each, and a
file for one line of JSON per epoch.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main() -> None:
    """Trains on all cases."""
    folder, configuration, device, epochs, iterations, history = sys.argv[1:]
    torch.set_num_threads(multiprocessing.cpu_count() if device == "cpu" else 1)  # as nnUNetv2_train does
    trainer = build_trainer(Path(folder), configuration, torch.device(device))
    trainer.on_train_start()
    with Path(history).open("a", encoding="utf-8") as output:
        for _ in range(int(epochs)):
            output.write(json.dumps(time_epoch(trainer, int(iterations))) + "\n")
            output.flush()
    trainer.on_train_end()


def build_trainer(folder: Path, configuration: str, device: torch.device) -> Any:
    """The default trainer with the default plan."""
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False  # the constructor takes it out of the plan
    dataset = json.loads((folder / "dataset.json").read_text())
    return nnUNetTrainer(plans, configuration, "all", dataset, device=device)


def time_epoch(trainer: Any, iterations: int) -> dict[str, float]:
    """Seconds of an epoch without validation, and how many of them were spent waiting for batches."""
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    began, waited = time.perf_counter(), 0.0
    for _ in range(iterations):
        asked = time.perf_counter()
        batch = next(trainer.dataloader_train)
        waited += time.perf_counter() - asked
        trainer.train_step(batch)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "seconds_per_iteration": seconds / iterations, "data_wait_seconds": waited}


if __name__ == "__main__":
    main()
