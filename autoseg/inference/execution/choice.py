"""Choice of the fastest way to run a network: eager PyTorch, compiled PyTorch, or OpenVINO; on a GPU CUDA graphs.

Compiling and converting take seconds before the first patch, which small jobs never make up for. A large job times
every way that is installed on a few patches, stores the figures, and takes the one with the shortest total time. A way
whose logits differ by more than `TOLERANCES` from those of eager PyTorch is not taken, however fast it is.
"""

import copy
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast, get_args

import torch
from torch import nn

from autoseg.errors import DeviceError
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
from autoseg.inference.execution.trial_records import TOLERANCES, ExecutionRecord, find_fastest, recall, remember
from autoseg.inference.options import Workload
from autoseg.inference.sliding_window.windows import count_passes
from autoseg.networks.blocks import fuse_normalization, has_fused_normalization
from autoseg.networks.fusion import fuse_modules
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.planes import join_planes, list_planes
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.captured_network import PASSES_BEFORE, CapturedNetwork, capture_networks, release_captured
from autoseg.runtime.cuda_graphs import CudaGraphs, GraphBackend
from autoseg.runtime.device import benchmark_kernels, describe_error, wait_for_device
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
MISSING: Final[Mapping[str, str]] = {
    "compiled": "PyTorch needs a C++ compiler to compile networks, found none (g++, clang++, or what CXX names); for a "
    "GPU it needs Triton, too; install them, or use --execution eager",
    "openvino": "OpenVINO is not installed, or the device is no CPU; install it with: pip install autoseg[openvino], "
    "or use --execution eager",
    "captured": "CUDA graphs need a CUDA device; use --execution eager",
    "fused": "the fused normalization needs a CUDA device, Triton and 16 bits; use --execution eager",
}
TRIAL_SHARE: Final = 0.05
"""A trial may cost this part of the time that the job is expected to take."""
CAPTURING_PAYS_PASSES: Final = 40
"""Passes of a short job from which they are captured on a GPU (guess): the first ones, and a check, are five more."""

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
    folds, planes = len(networks), len(list_planes(networks[0]))
    networks = [cast(SegmentationNetwork, one) for network in networks for one in list_planes(network)]
    held = [network.label_autoencoder for network in networks]
    kept = tuple(copy.deepcopy(autoencoder).eval() for autoencoder in held if autoencoder is not None)
    for network in networks:
        fuse_modules(network)
    is_short = choice == "auto" and not is_large(workload, setting, folds)
    if choice == "eager" or is_short:
        prepared = _build("eager", networks, setting, inference_batch_size=1)
        if is_short and repeats_passes(workload, setting):
            captured = _capture_checked(prepared, setting)
            if captured is not None:
                return replace(captured, networks=join_planes(captured.networks, planes), label_autoencoders=kept)
        count = _find_batch_size(prepared[0], setting) if setting.device.type == "cpu" else None
        together = join_planes(prepared, planes)
        return PreparedNetworks(
            networks=together, execution="eager", inference_batch_size=count, label_autoencoders=kept
        )
    if choice != "auto":
        check_available(choice, setting)
    benchmark_kernels(setting.device)
    probe = prepare_network(copy.deepcopy(networks[0]), device=setting.device, dtype=setting.dtype)
    count = _find_batch_size(probe, setting)
    trials = _Trials(original=networks[0], probe=probe, setting=setting, inference_batch_size=count)
    patches = count_patches(workload, setting.configuration, folds)
    execution = trials.choose(patches) if choice == "auto" else choice
    if choice == "auto":
        prepared = _build(execution, networks, setting, inference_batch_size=count, falls_back=True)
    else:
        prepared = trials.build_checked(execution, networks)
    together = join_planes(prepared, planes)
    return PreparedNetworks(networks=together, execution=execution, inference_batch_size=count, label_autoencoders=kept)


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


def repeats_passes(workload: Workload, setting: Setting) -> bool:
    """Returns whether a job has so many passes of one size that capturing them, which takes a second, pays."""
    count = setting.configuration.training.batch_size
    passes = count_patches(workload, setting.configuration, folds=1) // count
    return passes >= CAPTURING_PAYS_PASSES and "captured" in list_available(setting)


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


def check_available(execution: str, setting: Setting) -> None:
    """Checks that an execution exists here.

    Raises:
        DeviceError: It does not; the message says how to install it, or which there are.
    """
    if execution not in list_available(setting):
        unknown = f"no execution is called {execution!r}; choose one of: {', '.join(get_args(ExecutionChoice))}"
        msg = f"{MISSING.get(execution, unknown)} (the device is {setting.device}, the precision {setting.dtype})"
        raise DeviceError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trials:
    """Tries executions on one fold.

    Attributes:
        original: The network in single precision; None: nothing is built from it.
        probe: The same, prepared for eager PyTorch: the reference.
    """

    original: SegmentationNetwork | None
    probe: nn.Module
    setting: Setting
    inference_batch_size: int

    def choose(self, patches: int) -> Execution:
        """Chooses the shortest total time for a number of patches, and logs the choice where there was one."""
        eager = self._find("eager", torch.__version__)
        if eager is None:
            return "eager"  # as where memory is short, for which prediction takes fewer patches at once
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
        except Exception as error:  # Triton's are no RuntimeError, and its compiler may be missing
            msg = f"{execution} does not work here: {describe_failure(error)}; use --execution eager"
            raise DeviceError(msg) from error
        tolerance = TOLERANCES[self.setting.dtype]
        if difference > tolerance:
            msg = (
                f"{execution} must give the network's logits within {tolerance} standard deviations, found a mean "
                f"difference of {difference:.3g}; use --execution eager"
            )
            raise DeviceError(msg)
        return prepared

    @torch.inference_mode()
    def check_captured(self, network: nn.Module) -> None:
        """Runs a network until its passes are replayed, and checks the logits.

        Raises:
            RuntimeError: They are not replayed, or other ones.
        """
        _start(network, self._draw_patches(seed=0))
        _check_captured(network)
        difference = self._compare(network)
        if difference > TOLERANCES[self.setting.dtype]:
            msg = f"its logits differ by {difference:.3g} standard deviations"
            raise RuntimeError(msg)

    def _find(self, execution: Execution, made_by: str) -> ExecutionRecord | None:
        return self._recall(execution, made_by) or self._try_and_remember(execution, made_by)

    def _recall(self, execution: Execution, made_by: str) -> ExecutionRecord | None:
        return recall(self._find_conditions(), execution, made_by, inference_batch_size=self.inference_batch_size)

    def _try_and_remember(self, execution: Execution, made_by: str) -> ExecutionRecord | None:
        try:
            record = self._try(execution, made_by)
        except Exception as error:  # as above
            told = "cannot be timed" if execution == "eager" else "does not work here and is not used"
            logger.warning("%s %s: %s", execution, told, describe_failure(error))
            return None
        if not record.is_exact_enough:
            logger.warning("%s differs by %.3g standard deviations and is not used", execution, record.difference)
        remember(record)
        return record

    @torch.inference_mode()
    def _try(self, execution: Execution, made_by: str) -> ExecutionRecord:
        started = time.perf_counter()
        if execution == "eager":
            network = self.probe
        else:
            assert self.original is not None, "there is a network to build from"
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


def _capture_checked(prepared: tuple[nn.Module, ...], setting: Setting) -> PreparedNetworks | None:
    """Has the passes of prepared networks captured, by the batch size of training; None if that does not work."""
    count = setting.configuration.training.batch_size
    captured = capture_networks(prepared, build_graphs(setting.device), inference_batch_size=count)
    trials = _Trials(original=None, probe=prepared[0], setting=setting, inference_batch_size=count)
    try:
        trials.check_captured(captured[0])
    except Exception as error:  # whatever is raised, the networks run as they are
        release_captured(captured)
        logger.warning("captured does not work here and is not used: %s", describe_failure(error))
        return None
    return PreparedNetworks(networks=captured, execution="captured", inference_batch_size=count)


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
    execution: Execution,
    networks: Sequence[SegmentationNetwork],
    setting: Setting,
    *,
    inference_batch_size: int,
    falls_back: bool = False,
) -> tuple[nn.Module, ...]:
    """Builds networks; a fused one whose first pass fails falls back to PyTorch's normalization, if it may."""
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
        fall_back=partial(fuse_normalization, is_fused=False) if falls_back else None,
    )


def _find_batch_size(network: nn.Module, setting: Setting) -> int:
    memory = find_measurement_cache("inference_batch_size")
    return find_inference_batch_size(
        network, setting.configuration, dtype=setting.dtype, memory=memory, device=setting.device
    )


def describe_failure(error: Exception) -> str:
    """Describes why an execution does not work, in one line; what is no RuntimeError is named."""
    return describe_error(error).removeprefix("RuntimeError: ")
