"""Choice of the fastest way to run a network: eager PyTorch, compiled PyTorch, or OpenVINO; on a GPU CUDA graphs.

Compiling and converting take seconds before the first patch, which small jobs never make up for. A large job times
every way that is installed on a few patches, stores the figures, and takes the one with the shortest total time. A way
whose logits differ by more than `TOLERANCES` from those of eager PyTorch is not taken, however fast it is.
"""

import copy
import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn

from autoseg.document import Document, read_document, write_document
from autoseg.errors import DeviceError, DocumentError, RunError
from autoseg.inference.execution.batch_size import (
    REPETITIONS,
    InferenceConditions,
    find_inference_batch_size,
    find_inference_conditions,
    time_pass,
)
from autoseg.inference.execution.compiled_network import compile_networks, find_compiler
from autoseg.inference.execution.openvino_network import convert_network, find_openvino_version
from autoseg.inference.execution.preparation import Execution, ExecutionChoice, prepare_network
from autoseg.inference.options import Workload
from autoseg.inference.sliding_window.windows import count_passes
from autoseg.networks.blocks import has_fused_normalization
from autoseg.networks.fusion import fuse_modules
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.captured_network import PASSES_BEFORE, CapturedNetwork, capture_networks
from autoseg.runtime.cuda_graphs import CudaGraphs, GraphBackend
from autoseg.runtime.device import benchmark_kernels, wait_for_device
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.runtime.precision import DtypeName

SMALLEST_WORK_VOXELS: Final[Mapping[str, int]] = {"cpu": 2**29, "cuda": 2**31}
"""By type of device, voxels of all patches together below which only eager PyTorch is considered: eight minutes of a
U-Net of 32 to 256 features in bfloat16 on two cores (measured); about 24 seconds of one of 32 to 320 on an H100."""
TRIAL_SECONDS: Final[Mapping[str, Mapping[Execution, float]]] = {
    "cpu": {"compiled": 20.0, "openvino": 5.0},
    "cuda": {"captured": 1.0, "fused": 10.0, "compiled": 90.0},
}
"""Approximate duration of a trial (measured on two cores: 9 to 16 and 3 to 5 seconds to start, then a few patches; on a
GPU guesses: the fused kernel is compiled for every number of channels)."""
MISSING: Final[Mapping[Execution, str]] = {
    "compiled": "PyTorch needs a C++ compiler to compile networks, found none (g++, clang++, or what CXX names); for a "
    "GPU it needs Triton, too; install them, or use --execution eager",
    "openvino": "OpenVINO is not installed, or the device is no CPU; install it with: pip install autoseg[openvino], "
    "or use --execution eager",
    "captured": "CUDA graphs need a CUDA device; use --execution eager",
    "fused": "the fused normalization needs a CUDA device, Triton and 16 bits; use --execution eager",
}
TRIAL_SHARE: Final = 0.05
"""A trial may cost this part of the time that the job is expected to take."""
TOLERANCES: Final[Mapping[DtypeName, float]] = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
"""Mean difference from the logits of eager PyTorch, in their standard deviations. Rounding makes 1e-6 in single
precision; in bfloat16 two ways of rounding differ by 0.01 to 0.02, like either from single precision (measured)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The configuration, device and dtype that networks are prepared for."""

    configuration: ConfigurationPlan
    device: torch.device
    dtype: DtypeName


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedNetworks:
    """Networks that are ready to predict.

    Attributes:
        inference_batch_size: None for the rule of `compute_inference_batch_size`.
        label_autoencoders: Copies of those that the networks hold, in single precision, on the CPU.
    """

    networks: tuple[nn.Module, ...]
    execution: Execution
    inference_batch_size: int | None
    label_autoencoders: tuple[nn.Module, ...] = ()


class ExecutionRecord(Document):
    """The stored result of a trial.

    Attributes:
        made_by: Version of the library that runs the network.
        start_seconds: Preparation and first call.
        difference: Mean difference from the logits of eager PyTorch, in their standard deviations.
    """

    schema_version: Literal[1] = 1
    circumstances: InferenceConditions
    execution: Execution
    made_by: str
    inference_batch_size: int
    start_seconds: float
    seconds_per_patch: float
    difference: float

    @property
    def is_exact_enough(self) -> bool:
        """Returns whether the execution is exact enough to be chosen."""
        return self.difference <= TOLERANCES[self.circumstances.dtype]

    def estimate_seconds(self, patches: int) -> float:
        """Estimates the duration of a whole job."""
        return self.start_seconds + patches * self.seconds_per_patch


def prepare_networks(
    networks: Sequence[SegmentationNetwork], setting: Setting, *, choice: ExecutionChoice, workload: Workload
) -> PreparedNetworks:
    """Prepares networks for prediction on a device; the given ones must not be used afterwards.

    Args:
        networks: Networks from `build_network`; the folds of one configuration.
        setting: The configuration, device and dtype to prepare for.
        choice: "auto" takes the fastest for the workload.
        workload: Images to predict and how.

    Raises:
        DeviceError: The chosen way is not installed, or does not compute the network's logits.
    """
    held = [network.label_autoencoder for network in networks]
    kept = tuple(copy.deepcopy(autoencoder).eval() for autoencoder in held if autoencoder is not None)
    for network in networks:
        fuse_modules(network)
    is_short = choice == "auto" and not is_large(workload, setting, len(networks))
    if choice == "eager" or is_short:
        prepared = _build("eager", networks, setting, inference_batch_size=1)
        count = _find_batch_size(prepared[0], setting) if setting.device.type == "cpu" else None
        return PreparedNetworks(
            networks=prepared, execution="eager", inference_batch_size=count, label_autoencoders=kept
        )
    if choice != "auto":
        check_available(choice, setting)
    benchmark_kernels(setting.device)
    probe = prepare_network(copy.deepcopy(networks[0]), device=setting.device, dtype=setting.dtype)
    count = _find_batch_size(probe, setting)
    trials = _Trials(original=networks[0], probe=probe, setting=setting, inference_batch_size=count)
    patches = count_patches(workload, setting.configuration, len(networks))
    execution = trials.choose(patches) if choice == "auto" else choice
    if choice == "auto":
        prepared = _build(execution, networks, setting, inference_batch_size=count)
    else:
        prepared = trials.build_checked(execution, networks)
    return PreparedNetworks(networks=prepared, execution=execution, inference_batch_size=count, label_autoencoders=kept)


def count_patches(workload: Workload, configuration: ConfigurationPlan, folds: int) -> int:
    """Counts the patches that networks compute in a job, if every image has the median shape of the plan.

    A 2D configuration does not know how many slices an image has; one is counted.
    """
    median = [round(extent) for extent in configuration.median_shape_voxels]
    shape = [1, *median] if len(median) == 2 else median
    return int(workload.images * count_passes(shape, configuration, workload.options) * folds)


def is_large(workload: Workload, setting: Setting, folds: int) -> bool:
    """Returns whether a job is long enough for trials; on a device without other ways, none is."""
    configuration = setting.configuration
    voxels = count_patches(workload, configuration, folds) * math.prod(configuration.patch_voxels)
    return voxels >= SMALLEST_WORK_VOXELS.get(setting.device.type, math.inf)


def list_available(setting: Setting) -> dict[Execution, str]:
    """Lists the ways to run a network on a device beside eager PyTorch, with versions."""
    compiler, triton = find_compiler() is not None, has_fused_normalization()
    found: dict[Execution, str | None] = {}
    if setting.device.type == "cpu":
        found = {"compiled": torch.__version__ if compiler else None, "openvino": find_openvino_version()}
    if setting.device.type == "cuda":
        is_there = {"captured": True, "fused": triton and setting.dtype != "float32", "compiled": triton and compiler}
        found = {name: torch.__version__ if is_there[name] else None for name in TRIAL_SECONDS["cuda"]}
    return {name: made_by for name, made_by in found.items() if made_by}


def build_graphs(device: torch.device) -> GraphBackend:
    """Builds what captures passes on a device."""
    return CudaGraphs(device=device)


def check_available(execution: Execution, setting: Setting) -> None:
    """Checks that an execution exists here.

    Raises:
        DeviceError: It does not; the message says how to install it.
    """
    if execution not in list_available(setting):
        msg = f"{MISSING[execution]} (the device is {setting.device}, the precision {setting.dtype})"
        raise DeviceError(msg)


def find_fastest(records: Sequence[ExecutionRecord], patches: int) -> ExecutionRecord:
    """Returns the fastest of the exact ones, by the total time for a number of patches."""
    return min((record for record in records if record.is_exact_enough), key=lambda r: r.estimate_seconds(patches))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trials:
    """Tries executions on one fold.

    Attributes:
        original: The network in single precision.
        probe: The same, prepared for eager PyTorch: the reference.
    """

    original: SegmentationNetwork
    probe: nn.Module
    setting: Setting
    inference_batch_size: int

    def choose(self, patches: int) -> Execution:
        """Chooses the shortest total time for a number of patches, and logs the choice where there was one."""
        eager = self._find("eager", torch.__version__)
        assert eager is not None, "eager PyTorch needs nothing else"
        expected_seconds = eager.estimate_seconds(patches)
        records = [eager]
        seconds = TRIAL_SECONDS.get(self.setting.device.type, {})
        for execution, made_by in list_available(self.setting).items():
            record = self._recall(execution, made_by)
            if record is None and seconds[execution] <= TRIAL_SHARE * expected_seconds:
                record = self._try_and_remember(execution, made_by)
            records += [] if record is None else [record]
        chosen = find_fastest(records, patches)
        if len(records) > 1:
            figures = ", ".join(f"{r.execution} {r.start_seconds:.3g} s and {r.seconds_per_patch:.3g}" for r in records)
            logger.info("networks run %s here (to begin, and per patch: %s)", chosen.execution, figures)
        return chosen.execution

    @torch.inference_mode()
    def build_checked(self, execution: Execution, networks: Sequence[SegmentationNetwork]) -> tuple[nn.Module, ...]:
        """Prepares networks for the way that the user chose, and checks the logits of the first.

        Raises:
            DeviceError: They do not run, or do not compute the network's logits.
        """
        try:
            prepared = _build(execution, networks, self.setting, inference_batch_size=self.inference_batch_size)
            if execution == "captured":
                _start(prepared[0], self._draw_patches(seed=0))
                _check_captured(prepared[0])
            difference = self._compare(prepared[0])
        except RuntimeError as error:  # of which the errors of compilers and OpenVINO are kinds
            msg = f"{execution} does not work here: {_get_first_line(error)}; use --execution eager"
            raise DeviceError(msg) from error
        tolerance = TOLERANCES[self.setting.dtype]
        if difference > tolerance:
            msg = (
                f"{execution} must give the network's logits within {tolerance} standard deviations, found a mean "
                f"difference of {difference:.3g}; use --execution eager"
            )
            raise DeviceError(msg)
        return prepared

    def _find(self, execution: Execution, made_by: str) -> ExecutionRecord | None:
        return self._recall(execution, made_by) or self._try_and_remember(execution, made_by)

    def _recall(self, execution: Execution, made_by: str) -> ExecutionRecord | None:
        circumstances = self._find_conditions()
        path = _get_path(circumstances, execution)
        try:
            record = read_document(path, ExecutionRecord)
        except DocumentError:
            return None  # not there, or of another version
        known = (record.circumstances, record.made_by, record.inference_batch_size)
        return record if known == (circumstances, made_by, self.inference_batch_size) else None

    def _try_and_remember(self, execution: Execution, made_by: str) -> ExecutionRecord | None:
        try:
            record = self._try(execution, made_by)
        except RuntimeError as error:  # as above
            logger.warning("%s does not work here and is not used: %s", execution, _get_first_line(error))
            return None
        if not record.is_exact_enough:
            logger.warning("%s differs by %.3g standard deviations and is not used", execution, record.difference)
        try:
            write_document(_get_path(record.circumstances, execution), record)
        except RunError as error:
            logger.warning("what %s takes is measured in every call: %s", execution, error)
        return record

    @torch.inference_mode()
    def _try(self, execution: Execution, made_by: str) -> ExecutionRecord:
        started = time.perf_counter()
        if execution == "eager":
            network = self.probe
        else:
            source = copy.deepcopy(self.original)
            (network,) = _build(execution, [source], self.setting, inference_batch_size=self.inference_batch_size)
        patches = self._draw_patches(seed=0)
        _start(network, patches)
        if execution == "captured":
            _check_captured(network)
        start_seconds = 0.0 if execution == "eager" else time.perf_counter() - started
        return ExecutionRecord(
            circumstances=self._find_conditions(),
            execution=execution,
            made_by=made_by,
            inference_batch_size=self.inference_batch_size,
            start_seconds=round(start_seconds, 3),
            seconds_per_patch=min(time_pass(network, patches) for _ in range(REPETITIONS)) / len(patches),
            difference=0.0 if execution == "eager" else self._compare(network),
        )

    def _compare(self, network: nn.Module) -> float:
        """Compares with other patches than those with which the network was started, which a graph must not keep."""
        patches = self._draw_patches(seed=1)
        expected, found = self.probe(patches)[0], network(patches)[0]
        return float((found - expected).abs().mean() / expected.std())

    def _draw_patches(self, *, seed: int) -> torch.Tensor:
        channels, patch = self.setting.configuration.network.input_channels, self.setting.configuration.patch_voxels
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn((self.inference_batch_size, channels, *patch), generator=generator)
        return drawn.to(self.setting.device)

    def _find_conditions(self) -> InferenceConditions:
        return find_inference_conditions(self.setting.configuration, self.setting.dtype, self.setting.device)


def _start(network: nn.Module, patches: torch.Tensor) -> None:
    """Runs a network until it runs as it will from then on."""
    for _ in range(PASSES_BEFORE + 1 if isinstance(network, CapturedNetwork) else 1):
        network(patches)
    wait_for_device(patches.device)


def _check_captured(network: nn.Module) -> None:
    """Checks that passes are replayed.

    Raises:
        RuntimeError: They are not.
    """
    problem = network.problem if isinstance(network, CapturedNetwork) else None
    if problem is not None:
        raise RuntimeError(problem)


def _build(
    execution: Execution, networks: Sequence[SegmentationNetwork], setting: Setting, *, inference_batch_size: int
) -> tuple[nn.Module, ...]:
    if execution == "openvino":
        channels = setting.configuration.network.input_channels
        patch, dtype = setting.configuration.patch_voxels, setting.dtype
        return tuple(
            convert_network(network, channels=channels, patch_voxels=patch, dtype=dtype) for network in networks
        )
    prepared: tuple[nn.Module, ...] = tuple(
        prepare_network(network, device=setting.device, dtype=setting.dtype, is_norm_fused=execution == "fused")
        for network in networks
    )
    is_compiled = execution == "compiled"
    if is_compiled:
        prepared = compile_networks(prepared, inference_batch_size=inference_batch_size)
    if execution == "eager" or (is_compiled and setting.device.type == "cpu"):
        return prepared
    return capture_networks(
        prepared,
        build_graphs(setting.device),
        inference_batch_size=inference_batch_size,
        is_rehearsed=not is_compiled,
    )


def _find_batch_size(network: nn.Module, setting: Setting) -> int:
    memory = find_measurement_cache("inference_batch_size")
    return find_inference_batch_size(
        network, setting.configuration, dtype=setting.dtype, memory=memory, device=setting.device
    )


def _get_path(circumstances: InferenceConditions, execution: Execution) -> Path:
    digest = hashlib.sha256(circumstances.model_dump_json().encode()).hexdigest()[:32]
    return find_measurement_cache("executions") / f"{digest}.{execution}.json"


def _get_first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
