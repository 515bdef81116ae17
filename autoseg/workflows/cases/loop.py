"""The loop over cases of every prediction: one is predicted while the next is read and the last is written.

A case that fails does not stop the others; failures are collected and reported by name.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from autoseg.errors import CasesFailedError
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.nonzero_region import Box
from autoseg.preprocessing.case import CaseGeometry
from autoseg.processes.case_pool import Failure, build_failure, list_problems, write_failure_log
from autoseg.processes.overlap import overlap_steps
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.runtime.streams import postpone_on_gpu
from autoseg.stages.training_cases import open_training_case, read_box, read_network_input

Item = TypeVar("Item")
Read = TypeVar("Read")
Logits = TypeVar("Logits")
Predicted = TypeVar("Predicted")
NetworkInput = tuple[CaseGeometry, np.ndarray, Box | None]
"""The geometry of a case, its image with all channels, and the box in which it is predicted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseOutput:
    """Output of one model for a preprocessed case.

    Attributes:
        image: Input of the network.
    """

    model: SegmentationModel
    image: Float32[np.ndarray, "channel z y x"]
    logits: Float32[Tensor, "class z y x"]
    geometry: CaseGeometry


def predict_each(
    cases: Sequence[Item],
    *,
    get_name: Callable[[Item], str],
    read: Callable[[Item], Read],
    predict: Callable[[Item, Read], Logits],
    finish: Callable[[Item, Logits], Predicted],
    write: Callable[[Item, Predicted], None],
    device: torch.device,
) -> Iterator[Failure | None]:
    """Takes every case through four steps; yields None for a case that is written, else why it is not.

    Args:
        cases: Cases in the order of prediction.
        get_name: Returns the name of a case, for reports.
        read: Runs in a thread of its own.
        predict: Runs in the caller's thread.
        finish: Turns what was predicted into what is written. It runs in the caller's thread on a CPU, whose cores are
            busy; on a CUDA device beside the prediction of the next case.
        write: Runs in a thread of its own.
        device: Device that predicts.
    """

    def work(case: Item, contents: Read) -> Callable[[], Predicted]:
        return postpone_on_gpu(partial(finish, case, predict(case, contents)), device)

    def write_finished(case: Item, finished: Callable[[], Predicted]) -> None:
        write(case, finished())

    for case, error in overlap_steps(cases, read=read, work=work, write=write_finished):
        failure = None if error is None else build_failure(get_name(case), error)
        del error  # its frames hold arrays, which may lie on a GPU
        yield failure


def predict_preprocessed_cases(
    run: RunFolder,
    models: Sequence[SegmentationModel],
    cases: Sequence[str],
    *,
    finish: Callable[[str, Sequence[CaseOutput]], Predicted],
    write: Callable[[str, Predicted], None],
    progress: Progress,
    options: PredictionOptions = DEFAULT_OPTIONS,
) -> Iterator[Failure | None]:
    """Predicts preprocessed cases of a run with one or more models; see `predict_each`.

    Args:
        run: Run with the cases, preprocessed for all models.
        models: Each predicts every case.
        cases: Names.
        finish: Turns the outputs of the models, in their order, into what is written.
        write: Runs in a thread of its own.
        progress: Shows the windows.
        options: Prediction options of all models.
    """

    def read(case: str) -> list[NetworkInput]:
        return [_read(run, model, case) for model in models]

    def predict(case: str, inputs: list[NetworkInput]) -> list[CaseOutput]:
        outputs = []
        for model, (geometry, image, box) in zip(models, inputs, strict=True):
            label = case if len(models) == 1 else f"{case}, {model.configuration}"
            show = partial(progress.show_part, label)
            logits = model.predict_preprocessed(image, box=box, options=options, on_window=show)
            outputs.append(CaseOutput(model=model, image=image, logits=logits, geometry=geometry))
        return outputs

    return predict_each(
        cases, get_name=str, read=read, predict=predict, finish=finish, write=write, device=models[0].device
    )


def _read(run: RunFolder, model: SegmentationModel, case: str) -> NetworkInput:
    opened = open_training_case(run, model.plan, model.configuration, case)
    image = read_network_input(opened, model.plan, model.configuration)
    return opened.geometry, image, read_box(opened, model.plan, model.configuration)


def collect_failures(
    events: Iterator[Failure | None], *, progress: Progress, label: str, total: int, unit: str = "case"
) -> list[Failure]:
    """Runs a loop to its end, with progress; returns the failures."""
    return [failure for failure in progress.track(events, label=label, total=total, unit=unit) if failure is not None]


def complete_cases(events: Iterator[Failure | None], *, progress: Progress, label: str, total: int, log: Path) -> None:
    """Runs a loop over cases of a run to its end, with progress, and reports what failed.

    Raises:
        CasesFailedError: Cases failed.
    """
    check_failures(collect_failures(events, progress=progress, label=label, total=total), total=total, log=log)


def check_failures(failures: Sequence[Failure], *, total: int, log: Path, unit: str = "case") -> None:
    """Reports what failed, if anything did.

    Args:
        failures: Failures of a loop.
        total: Total number of cases.
        log: File for the tracebacks of unexpected errors.
        unit: Word for a case in messages.

    Raises:
        CasesFailedError: There are failures.
    """
    if not failures:
        return
    lines = [*list_problems(failures), *write_failure_log(log, failures)]
    rest = "; the others are written:" if len(failures) < total else ":"
    heading = f"{len(failures)} of {total} {unit}s failed{rest}"
    raise CasesFailedError(heading, lines)
