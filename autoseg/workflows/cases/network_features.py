"""Features of held-out predictions, stored beside their label maps, from which estimates of quality are calibrated."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from autoseg.document import Document, read_document, write_document
from autoseg.errors import DocumentError
from autoseg.inference.model import SegmentationModel
from autoseg.inference.restoring.restore_grid import retry_with_logits_in_ram
from autoseg.networks.weights import hash_weights
from autoseg.plan.document import Plan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.quality.features import ClassProbabilities, NetworkFeatures
from autoseg.quality.images import measure_image
from autoseg.quality.plausibility import average_known, measure_plausibility
from autoseg.quality.probabilities import average_probabilities, measure_probabilities
from autoseg.run_folder import RunFolder
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.device import is_out_of_memory
from autoseg.stages.stored_maps import PredictionSource, read_source

ENDING: Final = ".features.json"

logger = logging.getLogger(__name__)


class StoredFeatures(Document):
    """Content of the JSON file beside a label map.

    Attributes:
        sources: The trainings that predicted; that of a stored input from a previous stage comes before.
        pruned_depth: Depth to which the network was pruned; None for a whole one.
        features: The features.
    """

    schema_version: Literal[1] = 1
    sources: tuple[PredictionSource, ...]
    pruned_depth: int | None = None
    features: NetworkFeatures


def measure_network_features(
    images: Sequence[Float32[np.ndarray, "channel _z _y _x"]],
    logits: Sequence[Float32[Tensor, "class _z _y _x"]],
    geometry: CaseGeometry,
    plan: Plan,
    *,
    models: Sequence[SegmentationModel] = (),
) -> NetworkFeatures:
    """Measures a prediction while its logits are there.

    Probabilities of several models, each on its own grid, are measured one by one and averaged.

    Args:
        images: Preprocessed image of each model; channels from a previous stage do not count.
        logits: Logits of each model.
        geometry: Grid of the first image, of which the features of the image are.
        plan: Plan of the models.
        models: The models themselves, whose label autoencoders tell the plausibility; none: it is not measured.
    """
    own = [image[: len(plan.channels)] for image in images]

    def measure(parts: Sequence[Tensor]) -> tuple[ClassProbabilities | None, ...]:
        of_members = [measure_probabilities(part, image, plan.labels) for part, image in zip(parts, own, strict=True)]
        return average_probabilities(of_members)

    probabilities = retry_with_logits_in_ram(measure, logits, purpose="measuring its quality")
    return NetworkFeatures(
        image=measure_image(own[0], geometry),
        probabilities=probabilities,
        plausibility=_measure_plausibility(models, logits),
    )


def average_features(of_members: Sequence[NetworkFeatures]) -> NetworkFeatures:
    """Averages the features of several models, each measured on its own grid; those of the image are the first's."""
    probabilities = average_probabilities([features.probabilities for features in of_members])
    plausibility = average_known([features.plausibility for features in of_members])
    return NetworkFeatures(image=of_members[0].image, probabilities=probabilities, plausibility=plausibility)


def _measure_plausibility(models: Sequence[SegmentationModel], logits: Sequence[Tensor]) -> float | None:
    """Measures how well the label autoencoders of the models reconstruct what each model predicts; the mean of all."""
    of_models = []
    for model, own in zip(models, logits, strict=bool(models)):
        configuration, labels = model.configuration_plan, model.plan.labels
        measure = partial(measure_plausibility, own, configuration=configuration, labels=labels)
        of_models.append(average_known([_measure_on(model.device, held, measure) for held in model.label_autoencoders]))
    return average_known(of_models)


def _measure_on(
    device: torch.device, autoencoder: nn.Module, measure: Callable[[nn.Module, torch.device], float | None]
) -> float | None:
    """Measures on the device of the model, and on the CPU where that is out of memory."""
    try:
        with adaptive_cpu_threads(device):
            return measure(autoencoder.to(device), device)
    except (MemoryError, RuntimeError) as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
    logger.warning("the device ran out of memory; measuring the plausibility on the CPU")
    return _measure_on(torch.device("cpu"), autoencoder, measure)


def find_sources(run: RunFolder, plan: Plan, configuration: str, fold: str, *, case: str) -> Iterator[PredictionSource]:
    """Yields the trainings whose weights predict a held-out case, that of a stored previous stage first."""
    if plan.configurations[configuration].previous_stage is not None:
        yield read_source(run.preprocessed(configuration), case)
    weights = hash_weights(run.fold(configuration, fold).final_checkpoint)
    yield PredictionSource(configuration=configuration, fold=fold, weights_sha256=weights)


def write_features(folder: Path, case: str, content: StoredFeatures) -> None:
    """Writes the features of a case beside its label map.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    write_document(folder / f"{case}{ENDING}", content, is_durable=False)


def read_features(
    folder: Path, case: str, *, sources: tuple[PredictionSource, ...], pruned_depth: int | None = None
) -> NetworkFeatures | None:
    """Reads the features of a case; None if there are none of these weights."""
    try:
        found = read_document(folder / f"{case}{ENDING}", StoredFeatures)
    except DocumentError:
        return None
    return found.features if (found.sources, found.pruned_depth) == (sources, pruned_depth) else None
