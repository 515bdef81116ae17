"""The network of one fold, for preprocessed cases that it held out."""

from typing import Final

import torch

from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import DEFAULT_OPTIONS, ONE_IMAGE, PredictionOptions, Workload
from autoseg.run_folder import RunFolder
from autoseg.runtime.device import find_device

MEASURED_DEVICES: Final = frozenset({"cuda"})
"""Types of devices whose execution is chosen as a prediction would choose it."""


def load_held_out_model(
    run: RunFolder,
    *,
    configuration: str,
    fold: str,
    device: str,
    images: int,
    options: PredictionOptions = DEFAULT_OPTIONS,
    pruned_depth: int | None = None,
    elsewhere: ExecutionChoice = "eager",
) -> SegmentationModel:
    """Loads the network of a fold without previous stages, whose predictions for these cases are stored.

    A GPU runs it as it would predict as many images, see `find_held_out_execution`.

    Args:
        run: Run folder.
        configuration: Name of the configuration.
        fold: Name of the fold.
        device: Device that predicts, "auto" for the best one.
        images: Number of cases to predict.
        options: Options of their prediction.
        pruned_depth: Depth to which the network is pruned; None for the whole one.
        elsewhere: Execution on other devices than a GPU.

    Raises:
        PredictionError: The fold is not trained.
        RunError: A checkpoint is damaged.
        DeviceError: There is no such device, or its memory does not suffice.
    """
    used = find_device(device)
    execution = find_held_out_execution(used, elsewhere)
    return load_model(
        run,
        configuration=configuration,
        folds=(fold,),
        device=str(used),
        execution=execution,
        workload=Workload(images=images, options=options) if used.type in MEASURED_DEVICES else ONE_IMAGE,
        with_previous=False,
        pruned_depth=pruned_depth,
    )


def find_held_out_execution(device: torch.device, elsewhere: ExecutionChoice = "eager") -> ExecutionChoice:
    """Returns "auto" for a GPU, unless results are to repeat themselves, which a choice by measured times may prevent.

    Scores that are measured on a CPU do not depend on what is installed there.
    """
    if device.type not in MEASURED_DEVICES:
        return elsewhere
    return "eager" if torch.are_deterministic_algorithms_enabled() else "auto"
