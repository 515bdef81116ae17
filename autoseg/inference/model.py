"""A trained model in memory, loaded once and applied to any number of volumes."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Integer
from torch import Tensor, nn

from autoseg.document import read_document
from autoseg.errors import PredictionError, describe_folds
from autoseg.geometry import Grid
from autoseg.inference.execution.choice import Setting, prepare_networks
from autoseg.inference.execution.preparation import Execution, ExecutionChoice
from autoseg.inference.folds import find_configuration, find_folds, select_previous_folds
from autoseg.inference.image_checks import check_grid, check_volume, find_largest_training_grid
from autoseg.inference.label_autoencoders import load_label_autoencoders
from autoseg.inference.options import DEFAULT_OPTIONS, ONE_IMAGE, Decoding, PredictionOptions, Workload
from autoseg.inference.restoring.dice_decoding import restore_dice_label_map
from autoseg.inference.restoring.restore_grid import (
    Location,
    iterate_probabilities,
    restore_label_map,
    restore_probabilities,
)
from autoseg.inference.sliding_window.boundary_patches import refine_boundaries
from autoseg.inference.sliding_window.box import compute_scores, predict_in_box
from autoseg.inference.sliding_window.mirroring import find_channel_exchange
from autoseg.inference.sliding_window.planes import predict_planes
from autoseg.inference.sliding_window.prediction import MEMORY_ADVICE, OnWindow, compute_inference_batch_size
from autoseg.networks.cost import count_cost
from autoseg.networks.families import build_network
from autoseg.networks.memory_limits import check_prediction_memory
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.weights import find_weight_problem, read_weights
from autoseg.nonzero_region import Box
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.run_folder import FoldFolder, RunFolder, open_run
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.device import find_device, translate_memory_errors
from autoseg.runtime.host_memory import LARGEST_KEPT_IN_PREDICTION_BYTES, keep_freed_memory
from autoseg.runtime.precision import DtypeName, Precision, find_dtype
from autoseg.stages.inputs import apply_prediction
from autoseg.stages.preparation import preprocess_for_stages
from autoseg.stages.previous_input import StagePrediction
from autoseg.stages.staged_case import StagedCase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationModel:
    """The networks of one configuration, ready on a device.

    Prediction has three steps, `preprocess`, `predict_case` and `restore_label_map` or `restore_probabilities`;
    `predict_volume` and `predict_probabilities` take them all.

    Attributes:
        plan: The plan that the networks were trained with.
        configuration: Name of the configuration.
        folds: Names of the folds, in the order of `networks`.
        networks: Prepared by `prepare_networks`.
        dtype: The dtype in which they compute.
        execution: The backend that runs them.
        inference_batch_size: Inference batch size; None for that of `compute_inference_batch_size`.
        previous: The stage whose predictions this one gets; None without one.
        largest_training_grid_voxels: Voxels of the largest preprocessed training image; None if it is not known.
        pruned_depth: Depth to which the trained networks were pruned; None if they are whole.
        label_autoencoders: Those of the networks, apart and in single precision, for the plausibility.
    """

    plan: Plan
    configuration: str
    folds: tuple[str, ...]
    networks: tuple[nn.Module, ...]
    device: torch.device
    dtype: DtypeName = "float32"
    execution: Execution = "eager"
    inference_batch_size: int | None = None
    previous: "SegmentationModel | None" = None
    largest_training_grid_voxels: int | None = None
    pruned_depth: int | None = None
    label_autoencoders: tuple[nn.Module, ...] = ()

    def __repr__(self) -> str:
        """Shows one line at a prompt, without the plan and the networks."""
        previous = "" if self.previous is None else f", previous={self.previous.configuration!r}"
        return (
            f"SegmentationModel(dataset={self.plan.dataset_name!r}, configuration={self.configuration!r}{previous}, "
            f"folds={self.folds!r}, device={str(self.device)!r}, precision={self.dtype!r})"
        )

    @property
    def stages(self) -> tuple["SegmentationModel", ...]:
        """All models of a prediction in their order; the last one is this model."""
        return (self,) if self.previous is None else (*self.previous.stages, self)

    @property
    def configuration_plan(self) -> ConfigurationPlan:
        """The plan of the configuration."""
        return self.plan.configurations[self.configuration]

    def preprocess(
        self, array: Float32[np.ndarray, "channel z y x"], grid: Grid, *, warn: Callable[[str], None] = logger.warning
    ) -> StagedCase:
        """Checks and preprocesses a volume, for every stage.

        Args:
            array: Intensities.
            grid: Grid of the array.
            warn: Receives each warning about the volume, also those of stages, while it is predicted.

        Raises:
            PredictionError: Channels or shape do not fit, intensities are not finite or cannot be normalized, or the
                spacing makes the image far larger than any in training.
            PlanError: Resampled, the image would exceed the memory, or be a single voxel.
        """
        for warning in check_volume(array, grid, self.plan):
            warn(warning)
        for stage in self.stages:
            check_grid(array, grid, self.plan, stage.configuration, largest_voxels=stage.largest_training_grid_voxels)
        return preprocess_for_stages(array, grid, self.plan, self.configuration, warn=warn)

    def predict_case(
        self,
        case: StagedCase,
        *,
        options: PredictionOptions = DEFAULT_OPTIONS,
        on_window: OnWindow | None = None,
    ) -> Float32[Tensor, "class z y x"]:
        """Computes the mean logits of all folds for a preprocessed case; previous stages predict before."""
        image, box = self._apply_previous(case, options=options, on_window=on_window)
        return self.predict_preprocessed(image, box=box, options=options, on_window=on_window)

    def _apply_previous(
        self, case: StagedCase, *, options: PredictionOptions, on_window: OnWindow | None
    ) -> tuple[Float32[np.ndarray, "channel z y x"], Box | None]:
        """Adds what the previous stage predicts, whose logits are freed before this stage predicts."""
        if self.previous is None:
            return case.image, None
        assert case.previous is not None, "this case was not preprocessed for the previous stage"
        logits = self.previous.predict_case(case.previous, options=options, on_window=on_window)
        prediction = self.previous.build_stage_prediction(logits, case.previous.geometry)
        return apply_prediction(case, prediction, self.plan, self.configuration)

    def build_stage_prediction(self, logits: Float32[Tensor, "class z y x"], geometry: CaseGeometry) -> StagePrediction:
        """Builds the input of the next stage from logits of this one."""
        labels, part = self.plan.labels, self.configuration_plan
        restore = partial(restore_label_map, logits, labels=labels, resampling=part.resampling)
        scores = partial(compute_scores, logits=logits, labels=labels, network=part.network)
        return StagePrediction(geometry=geometry, restore_label_map=restore, compute_scores=scores)

    def predict_preprocessed(
        self,
        image: Float32[np.ndarray, "channel z y x"],
        *,
        box: Box | None = None,
        options: PredictionOptions = DEFAULT_OPTIONS,
        on_window: OnWindow | None = None,
    ) -> Float32[Tensor, "class z y x"]:
        """Computes the mean logits of all folds for an image with all channels of the network, also from the previous
        stage, on its grid, in its box or everywhere: `predict_planes`, `refine_boundaries`, `predict_in_box`."""
        part, labels = self.configuration_plan, self.plan.labels
        predict = partial(
            partial(refine_boundaries, labels=labels) if part.is_class_by_class else predict_planes,
            self.networks,
            configuration=part,
            mirror_axes=part.training.mirror_axes if options.mirroring else (),
            exchange=find_channel_exchange(part.training, labels),
            device=self.device,
            step_fraction=options.step_fraction,
            inference_batch_size=self.inference_batch_size,
            on_window=on_window,
        )
        return predict_in_box(image, box, predict, labels=labels)

    def restore_label_map(
        self, logits: Float32[Tensor, "class z y x"], geometry: CaseGeometry, *, decoding: Decoding = "argmax"
    ) -> Integer[np.ndarray, "file_z file_y file_x"]:
        """Restores the label map on the grid of the file with the values of the dataset's files (smallest dtype)."""
        labels, resampling = self.plan.labels, self.configuration_plan.resampling
        if decoding == "dice":
            return labels.decode(restore_dice_label_map([logits], [geometry], [resampling], labels=labels))
        return labels.decode(restore_label_map(logits, geometry, labels=labels, resampling=resampling))

    def restore_probabilities(
        self, logits: Float32[Tensor, "class z y x"], geometry: CaseGeometry
    ) -> Float32[np.ndarray, "class file_z file_y file_x"]:
        """Restores the probabilities of background and labels, or of regions, on the grid of the file."""
        labels, resampling = self.plan.labels, self.configuration_plan.resampling
        return restore_probabilities(logits, geometry, labels=labels, resampling=resampling)

    def iterate_probabilities(
        self, logits: Float32[Tensor, "class z y x"], geometry: CaseGeometry
    ) -> Iterator[tuple[Location, Float32[np.ndarray, "class slab_z slab_y slab_x"]]]:
        """Yields the restored probabilities slice by slice with their location, so that not all are in memory."""
        labels, resampling = self.plan.labels, self.configuration_plan.resampling
        return iterate_probabilities(logits, geometry, labels=labels, resampling=resampling)

    def describe(self) -> str:
        """Describes the model in one line."""
        count = self.inference_batch_size or compute_inference_batch_size(self.configuration_plan, self.device)
        numbers = f"{self.dtype} on {self.device}, {self.execution}, {count} patch{'' if count == 1 else 'es'} at once"
        pruned = "" if self.pruned_depth is None else f", pruned to depth {self.pruned_depth}"
        return f"{self.configuration}{pruned}, {describe_folds(self.folds)}: {numbers}"

    def predict_volume(
        self, array: Float32[np.ndarray, "channel z y x"], grid: Grid, *, options: PredictionOptions = DEFAULT_OPTIONS
    ) -> Integer[np.ndarray, "z y x"]:
        """Predicts the label map of a volume on its own grid with the values of the dataset's files.

        Raises:
            PredictionError: The volume does not fit the model.
        """
        case = self.preprocess(array, grid)
        logits = self.predict_case(case, options=options)
        return self.plan.join_borders(self.restore_label_map(logits, case.geometry, decoding=options.decoding))

    def predict_probabilities(
        self, array: Float32[np.ndarray, "channel z y x"], grid: Grid, *, options: PredictionOptions = DEFAULT_OPTIONS
    ) -> Float32[np.ndarray, "class z y x"]:
        """Predicts the probabilities of a volume on its own grid.

        Raises:
            PredictionError: The volume does not fit the model.
        """
        case = self.preprocess(array, grid)
        return self.restore_probabilities(self.predict_case(case, options=options), case.geometry)


def load_model(
    run: str | Path | RunFolder,
    *,
    configuration: str | None = None,
    folds: Sequence[str] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    execution: ExecutionChoice = "auto",
    workload: Workload = ONE_IMAGE,
    with_previous: bool = True,
    pruned_depth: int | None = None,
) -> SegmentationModel:
    """Loads the trained networks of one configuration of a run, ready to predict, and those of its previous stages.

    The arguments are those of `autoseg.load_model`, which also opens other kinds of models.

    Raises:
        PredictionError: The configuration or a fold is not trained, or folds or stages follow different plans.
        PlanError: The networks cannot be pruned to that depth.
        RunError: There is no run, or a checkpoint is damaged.
        DeviceError: There is no such device or execution, no fast way to compute in this precision, or little memory.
    """
    folder = run if isinstance(run, RunFolder) else open_run(Path(run))
    used_device = find_device(device)
    dtype = find_dtype(used_device, precision)
    if used_device.type == "cpu":
        keep_freed_memory(LARGEST_KEPT_IN_PREDICTION_BYTES)
    name = find_configuration(folder, read_document(folder.plan, Plan), configuration)
    names = find_folds(folder, name, folds)
    trainings = [folder.fold(name, fold) for fold in names]
    plan = read_common_plan(trainings, name)
    if pruned_depth is not None:
        plan = plan.prune(name, pruned_depth)
    chosen, is_pruned = plan.configurations[name], pruned_depth is not None
    check_prediction_memory(chosen, name, used_device, count=count_cost, network_count=len(trainings))
    fits = translate_memory_errors(used_device, purpose=f"the networks of {len(names)} fold(s)", advice=MEMORY_ADVICE)
    with adaptive_cpu_threads(used_device), fits:
        prepared = prepare_networks(
            [load_network(training, chosen, is_pruned=is_pruned) for training in trainings],
            Setting(configuration=chosen, device=used_device, dtype=dtype),
            choice=execution,
            workload=workload,
        )
    model = SegmentationModel(
        plan=plan,
        configuration=name,
        folds=names,
        networks=prepared.networks,
        device=used_device,
        dtype=dtype,
        execution=prepared.execution,
        inference_batch_size=prepared.inference_batch_size,
        largest_training_grid_voxels=find_largest_training_grid(folder, plan, name),
        pruned_depth=pruned_depth,
        label_autoencoders=(*prepared.label_autoencoders, *load_label_autoencoders(trainings, chosen)),
    )
    if chosen.previous_configuration is None or not with_previous:
        return model
    previous = load_model(
        folder,
        configuration=chosen.previous_configuration,
        folds=select_previous_folds(folds),
        device=device,
        precision=precision,
        execution=execution,
        workload=workload,
    )
    check_stages_compatible(previous.plan, plan, name)
    return replace(model, previous=previous)


def check_stages_compatible(first: Plan, second: Plan, configuration: str) -> None:
    """Checks that the previous stage was trained as the configuration that gets its predictions expects.

    The mirrored views of the first stage do not matter: its masks mean the same.

    Args:
        first: Plan of the previous stage's trainings.
        second: Plan of the configuration.
        configuration: The configuration that has the previous stage.

    Raises:
        PredictionError: The plans differ.
    """
    name = second.configurations[configuration].previous_configuration
    assert name is not None, "there is no previous stage"
    if _select_network_and_grid(first, name) != _select_network_and_grid(second, name):
        msg = (
            f"the stages of a cascade must follow one plan, but {name} was trained by another plan than "
            f"{configuration} expects: spacing, patch, network, normalization, labels or axes differ; put the plan "
            f"back, or train {name} again with --restart"
        )
        raise PredictionError(msg)


def read_common_plan(trainings: Sequence[FoldFolder], configuration: str) -> Plan:
    """Returns the plan of the first training, after a check that the others predict in the same way.

    The run's own plan may be newer than its trainings, so their copies are used.

    Raises:
        PredictionError: The plans of two trainings differ in preprocessing, network or labels.
    """
    plans = [read_document(training.plan, Plan) for training in trainings]
    for training, plan in zip(trainings[1:], plans[1:], strict=True):
        if _select_what_predicts(plan, configuration) != _select_what_predicts(plans[0], configuration):
            msg = (
                f"the folds of an ensemble must follow one plan, but {training.plan} and {trainings[0].plan} differ "
                f"for {configuration}; name the folds that belong together, or train one of them again"
            )
            raise PredictionError(msg)
    return plans[0]


def load_network(
    training: FoldFolder, configuration: ConfigurationPlan, *, is_pruned: bool = False
) -> SegmentationNetwork:
    """Loads the network of one training with its final weights to the CPU, in evaluation mode.

    Args:
        training: A finished training.
        configuration: Its plan.
        is_pruned: Whether the plan is that of a part of the trained network; only the weights of that are read.

    Raises:
        PredictionError: The weights belong to another network.
        RunError: The checkpoint is damaged.
    """
    network = build_network(configuration.network)
    weights = read_weights(training.final_checkpoint, network.state_dict() if is_pruned else None)
    problem = find_weight_problem(weights, network.state_dict())
    if problem is not None:
        msg = f"the weights in {training.final_checkpoint} cannot be used: {problem}; copy them again, or train again"
        raise PredictionError(msg)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        msg = (
            f"the weights in {training.final_checkpoint} do not fit the network of {training.plan}: "
            f"{_shorten(str(error))}; copy the fold again with its own plan, or train it again"
        )
        raise PredictionError(msg) from error
    network.set_deep_supervision(enabled=False)
    return network.eval()


def _select_what_predicts(plan: Plan, configuration: str) -> tuple[object, ...]:
    training = plan.configurations[configuration].training
    return (*_select_network_and_grid(plan, configuration), training.mirror_axes, training.mirror_pairs)


def _select_network_and_grid(plan: Plan, configuration: str) -> tuple[object, ...]:
    part = plan.configurations[configuration]
    return (
        plan.orientation,
        plan.axis_permutation,
        plan.labels,
        plan.channels,
        (part.spacing_mm, part.patch_voxels, part.context_slices, part.plane_axes),
        (part.previous_stage, part.resampling, part.network),
    )


def _shorten(text: str, limit: int = 300) -> str:
    return words if len(words := " ".join(text.split())) <= limit else f"{words[:limit]}..."
