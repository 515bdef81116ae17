"""Trains fold 0 with nnU-Net's trainer and validates; run by the interpreter of its own environment.

Arguments: the preprocessed dataset, the configuration, the iterations, the epochs that they are divided into (the
learning rate falls to zero over them), and a file for the result in JSON.
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main() -> None:
    """Trains, validates on whole volumes with mirroring, and writes mean Dice and seconds."""
    folder, configuration, iterations, epochs, result = sys.argv[1:]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", multiprocessing.cpu_count())))  # as nnUNetv2_train does
    trainer = build_trainer(Path(folder), configuration)
    trainer.num_epochs = int(epochs)
    trainer.num_iterations_per_epoch = int(iterations) // int(epochs)
    trainer.num_val_iterations_per_epoch = 1
    began = time.perf_counter()
    trainer.run_training()
    trained = time.perf_counter()
    trainer.perform_actual_validation(save_probabilities=False)
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    report = {
        "iterations": trainer.num_epochs * trainer.num_iterations_per_epoch,
        "training_seconds": trained - began,
        "validation_seconds": time.perf_counter() - trained,
        "dice": summary["foreground_mean"]["Dice"],
        "dice_per_class": {name: scores["Dice"] for name, scores in summary["mean"].items()},
    }
    Path(result).write_text(json.dumps(report, indent=1))


def build_trainer(folder: Path, configuration: str) -> Any:
    """The default trainer with the default plan, on the CPU."""
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False  # the constructor takes it out of the plan
    dataset = json.loads((folder / "dataset.json").read_text())
    return nnUNetTrainer(plans, configuration, 0, dataset, device=torch.device("cpu"))


if __name__ == "__main__":
    main()
