"""Prediction of held-out cases by pruned networks, and how far to prune (Zhou et al. 2018, arXiv:1807.10165, 4.2)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np

from autoseg.evaluation.gain import LARGEST_DICE_LOSS
from autoseg.geometry import Grid
from autoseg.inference.held_out import load_held_out_model
from autoseg.network_cost import NetworkCost
from autoseg.networks.cost import measure_cost
from autoseg.plan.document import ConfigurationPlan
from autoseg.processes.case_pool import Failure
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.workflows.cases.loop import CaseOutput, complete_cases, predict_preprocessed_cases
from autoseg.workflows.plan.preprocessing import check_preprocessed
from autoseg.workflows.select.held_out import HeldOut
from autoseg.workflows.select.stored_predictions import find_label_map, is_current, write_prediction

LOG_NAME: Final = "pruned_predictions.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningJob:
    """Predictions of held-out cases to make with pruned networks of a configuration.

    Attributes:
        member: The configuration.
        cases: Cases that it holds out.
    """

    run: RunFolder
    member: HeldOut
    cases: tuple[str, ...]
    device: str = "auto"

    @property
    def configuration_plan(self) -> ConfigurationPlan:
        """The plan of the whole networks."""
        return self.member.plan.configurations[self.member.configuration]

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths to which the networks can be pruned."""
        return self.configuration_plan.network.list_pruned_depths()

    def find_folder(self, depth: int) -> Path:
        """Returns the folder of the predictions of a depth."""
        return self.run.pruned(self.member.configuration, depth)

    def find_label_map(self, depth: int, case: str) -> Path:
        """Returns the path of the prediction of a case."""
        return find_label_map(self.find_folder(depth), (self.member,), case)

    def measure_cost(self, depth: int | None) -> NetworkCost:
        """Counts what a patch costs at a depth; None for the whole network."""
        part = self.configuration_plan
        network = part.network if depth is None else part.network.prune(depth)
        return measure_cost(network, part.patch_voxels, batch_size=1)


def find_smallest(dice: Sequence[float]) -> int:
    """Finds the index of the first network whose Dice is at most `LARGEST_DICE_LOSS` below that of the best.

    Args:
        dice: Mean Dice of every network, of the smallest first.
    """
    return next(index for index, value in enumerate(dice) if value >= max(dice) - LARGEST_DICE_LOSS)


def predict_pruned(job: PruningJob, *, progress: Progress) -> None:
    """Writes the label maps of all depths and cases that are not there yet, as a validation predicts them.

    Raises:
        RunError: A preprocessed case or reference is missing.
        CasesFailedError: Some cases could not be predicted.
    """
    waiting = {case: _list_waiting(job, case) for case in job.cases}
    unfinished = [case for case in job.cases if waiting[case]]
    progress.note(_announce(job, unfinished))
    check_preprocessed(job.run, job.member.plan, job.configuration_plan.data_of, unfinished)
    events = _predict_waiting(job, {case: waiting[case] for case in unfinished}, progress=progress)
    complete_cases(
        events, progress=progress, label="Predicting pruned", total=len(unfinished), log=job.run.logs / LOG_NAME
    )


def _list_waiting(job: PruningJob, case: str) -> tuple[int, ...]:
    return tuple(depth for depth in job.depths if not is_current(job.run, job.find_folder(depth), (job.member,), case))


def _announce(job: PruningJob, unfinished: Sequence[str]) -> str:
    depths = f"{job.member.configuration}, pruned to depth {', '.join(map(str, job.depths))}"
    kept = len(job.cases) - len(unfinished)
    if not unfinished:
        return f"{depths}: all {kept} cases were predicted earlier"
    earlier = f", {kept} are there from earlier" if kept else ""
    return f"{depths}: {len(unfinished)} held-out cases to predict with each{earlier}"


def _predict_waiting(
    job: PruningJob, waiting: Mapping[str, tuple[int, ...]], *, progress: Progress
) -> Iterator[Failure | None]:
    """Cases of the same fold and depths follow one another, so that each network is loaded once."""

    def restore(case: str, outputs: Sequence[CaseOutput]) -> tuple[list[np.ndarray], Grid]:
        label_maps = [output.model.restore_label_map(output.logits, output.geometry) for output in outputs]
        return label_maps, outputs[0].geometry.grid

    def write(case: str, restored: tuple[list[np.ndarray], Grid]) -> None:
        label_maps, grid = restored
        for depth, label_map in zip(waiting[case], label_maps, strict=True):
            write_prediction(job.run, job.find_folder(depth), (job.member,), case, label_map=label_map, grid=grid)

    def find_networks(case: str) -> tuple[str, tuple[int, ...]]:
        return job.member.holders[case], waiting[case]

    for (fold, depths), cases in groupby(sorted(waiting, key=find_networks), key=find_networks):
        names = list(cases)
        models = [
            load_held_out_model(
                job.run,
                configuration=job.member.configuration,
                fold=fold,
                device=job.device,
                images=len(names),
                pruned_depth=depth,
            )
            for depth in depths
        ]
        yield from predict_preprocessed_cases(job.run, models, names, finish=restore, write=write, progress=progress)
