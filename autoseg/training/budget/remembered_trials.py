"""Results of trials of training steps, stored in the user's cache folder for later folds and resumed trainings."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import torch

from autoseg.document import Document, Part
from autoseg.networks.blocks import CHANNELS_LAST
from autoseg.networks.first_convolution import FirstConvolution
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.measurement_cache import (
    find_measurement,
    find_measurement_cache,
    read_measurement,
    write_measurement,
)
from autoseg.runtime.precision import DtypeName
from autoseg.training.execution import TrainingExecution
from autoseg.training.options import TrainingOptions

STEP_TRIALS: Final = "step_trials"
LONGER: Final = 1.5
"""A training that is longer by this factor may try what an earlier one had no time for (guess)."""


class StepConditions(Part):
    """The conditions under which compiled code is found again.

    Attributes:
        network: Plan of the network, as JSON.
        device: Name of the device.
    """

    network: str
    patch_voxels: tuple[int, ...]
    batch_size: int
    dtype: DtypeName
    device: str
    torch_version: str


class TrialConditions(StepConditions):
    """The conditions under which trials need not be repeated.

    Attributes:
        training: Plan of the training, as JSON: losses, objective and optimizer are parts of a step.
        is_taught: Whether a teacher is a part of the step.
        is_dtype_free: Whether another dtype may be tried.
        triton_version: None: it is not installed.
    """

    training: str
    is_taught: bool
    is_dtype_free: bool
    triton_version: str | None


class CompiledStep(Document):
    """The compiled code of a training step is in the user's cache folder.

    Attributes:
        execution: Execution of the step, in words.
    """

    schema_version: Literal[1] = 1
    execution: str


class StoredExecution(Part):
    """The fields of a `TrainingExecution`."""

    is_channels_last: bool
    compiler: str | None
    is_captured: bool
    is_norm_fused: bool
    first_convolution: FirstConvolution | None
    dtype: DtypeName | None

    @classmethod
    def store(cls, execution: TrainingExecution) -> "StoredExecution":
        """Makes one of an execution."""
        return cls(
            is_channels_last=execution.memory_format != torch.contiguous_format,
            compiler=execution.compiler,
            is_captured=execution.is_captured,
            is_norm_fused=execution.is_norm_fused,
            first_convolution=execution.first_convolution,
            dtype=execution.dtype,
        )

    def restore(self, dimensions: int) -> TrainingExecution:
        """Returns the execution, for 2 or 3 dimensions."""
        return TrainingExecution(
            memory_format=CHANNELS_LAST[dimensions] if self.is_channels_last else torch.contiguous_format,
            compiler=self.compiler,
            is_captured=self.is_captured,
            is_norm_fused=self.is_norm_fused,
            first_convolution=self.first_convolution,
            dtype=self.dtype,
        )


class StepTrials(Document):
    """What the trials of a training step have found.

    Attributes:
        execution: The fastest one that is not compiled.
        training_seconds: Length of the training for which they were made.
        are_all_tried: Whether it was long enough for all of them.
        is_compiling_slower: Whether a compiled step was compared and was no faster.
    """

    schema_version: Literal[1] = 1
    execution: StoredExecution
    training_seconds: float
    are_all_tried: bool
    is_compiling_slower: bool = False

    def suffice(self, training_seconds: float) -> bool:
        """Returns whether a training of this length would try no more."""
        return self.are_all_tried or training_seconds <= LONGER * self.training_seconds


@dataclass(slots=True, kw_only=True)
class TrialMemory:
    """Reads and writes what the trials of a training step have found.

    Attributes:
        path: None: nothing is remembered.
    """

    path: Path | None = None

    def read(self) -> StepTrials | None:
        """Reads what was found; None if nothing was."""
        return None if self.path is None else read_measurement(self.path, StepTrials)

    def write(self, found: StepTrials) -> None:
        """Writes what was found."""
        if self.path is not None:
            write_measurement(self.path, found, what="the fastest execution of a training step")

    def mark_compiling_slower(self) -> None:
        """Adds that a compiled step is no faster."""
        found = self.read()
        if found is not None:
            self.write(found.model_copy(update={"is_compiling_slower": True}))


def find_step_conditions(plan: ConfigurationPlan, options: TrainingOptions) -> StepConditions:
    """Finds what compiled code is made for."""
    device = options.device
    return StepConditions(
        network=plan.network.model_dump_json(),
        patch_voxels=plan.patch_voxels,
        batch_size=plan.training.batch_size,
        dtype=options.dtype,
        device=torch.cuda.get_device_name(device) if torch.cuda.is_available() else device.type,
        torch_version=torch.__version__,
    )


def find_trial_memory(plan: ConfigurationPlan, options: TrainingOptions) -> TrialMemory:
    """Finds the file of the trials that are made under the conditions of a training, whether it exists or not."""
    conditions = TrialConditions(
        **find_step_conditions(plan, options).model_dump(),
        training=plan.training.model_dump_json(),
        is_taught=options.teacher is not None,
        is_dtype_free=options.is_dtype_free,
        triton_version=_find_triton_version(),
    )
    return TrialMemory(path=find_measurement(find_measurement_cache(STEP_TRIALS), conditions))


def _find_triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None
