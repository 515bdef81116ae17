"""Compiles a network in a process beside the first epochs of a training, which is not delayed by it.

`python -m autoseg.training.compiling_beside TASK.json` compiles a step on random patches; the code is then in the
user's cache folder, where the training finds it within seconds, compares the compiled step with its own, and uses it
from then on if it is faster.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from autoseg.document import Document, read_document, write_document
from autoseg.labels import LabelScheme
from autoseg.networks.blocks import CHANNELS_LAST
from autoseg.networks.first_convolution import FirstConvolution
from autoseg.plan.document import ConfigurationPlan
from autoseg.processes.child_process import SECONDS_TO_STOP, Child, start_child, stop_children
from autoseg.processes.parent_watch import stop_with_parent
from autoseg.runtime.device import select_kernels
from autoseg.runtime.precision import DtypeName
from autoseg.training.data.batch import draw_random_batch
from autoseg.training.execution import TrainingExecution
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner, run_training_step

STEPS: Final = 2
ROOM: Final = 1.5
"""Free memory that a second training must find, in multiples of what the first one has taken at most (guess)."""
TASK_NAME: Final = "compiling.json"
LOG_NAME: Final = "compiling.log"

Compare = Callable[[], TrainingExecution | None]
"""Compares the compiled step with the present one; returns its execution if it is faster."""


class CompilingTask(Document):
    """The step to compile."""

    schema_version: Literal[1] = 1
    plan: ConfigurationPlan
    labels: LabelScheme
    device: str
    dtype: DtypeName
    compiler: str
    is_channels_last: bool
    first_convolution: FirstConvolution | None


@dataclass(slots=True, kw_only=True)
class CompilingBeside:
    """The process that compiles beside a training.

    Attributes:
        plan: Plan of the configuration.
        labels: Label scheme.
        options: Options of the training.
    """

    plan: ConfigurationPlan
    labels: LabelScheme
    options: TrainingOptions
    _folder: "tempfile.TemporaryDirectory[str] | None" = None
    _child: Child | None = None
    _compare: Compare | None = None

    def has_room(self) -> bool:
        """Returns whether the memory of the device holds a second training beside this one."""
        device = self.options.device
        torch.cuda.empty_cache()  # other processes cannot use what this one keeps
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return free_bytes >= ROOM * torch.cuda.max_memory_reserved(device)

    def start(self, execution: TrainingExecution, compare: Compare) -> None:
        """Starts to compile a step; `compare` is called when the code is there."""
        assert execution.compiler is not None, "the execution is a compiled one"
        self._folder = tempfile.TemporaryDirectory(prefix="autoseg-compiling-")
        folder, self._compare = Path(self._folder.name), compare
        task = CompilingTask(
            plan=self.plan,
            labels=self.labels,
            device=str(self.options.device),
            dtype=execution.dtype or self.options.dtype,
            compiler=execution.compiler,
            is_channels_last=execution.memory_format != torch.contiguous_format,
            first_convolution=execution.first_convolution,
        )
        write_document(folder / TASK_NAME, task)
        command = [sys.executable, "-m", "autoseg.training.compiling_beside", str(folder / TASK_NAME)]
        self._child = start_child(command, log=folder / LOG_NAME, environment={})

    def take(self) -> TrainingExecution | None:
        """Returns the compiled execution, once, when it is there and faster than the present one."""
        if self._child is None or self._child.poll() is None:
            return None
        child, compare = self._child, self._compare
        reason = child.describe_end() if child.poll() else None
        self.close()
        if reason is not None:
            self.options.announce(f"the network is trained as it is, because compiling it failed ({reason})")
            return None
        return None if compare is None else compare()

    def close(self) -> None:
        """Stops the process, if it still runs, and forgets it."""
        if self._child is not None:
            stop_children([self._child], seconds=SECONDS_TO_STOP)
        if self._folder is not None:
            self._folder.cleanup()
        self._child = self._compare = self._folder = None


def compile_step(task: CompilingTask) -> None:
    """Trains a few steps, for which the network is compiled."""
    device = torch.device(task.device)
    select_kernels(device, deterministic=False)
    memory_format = CHANNELS_LAST[task.plan.dimensions] if task.is_channels_last else torch.contiguous_format
    execution = TrainingExecution(
        memory_format=memory_format, compiler=task.compiler, first_convolution=task.first_convolution
    )
    learner = build_learner(task.plan, task.labels, device=device, seed=0, dtype=task.dtype, execution=execution)
    learner.train()
    batch = draw_random_batch(
        task.plan.training.batch_size,
        task.plan.network.input_channels,
        task.plan.patch_voxels,
        highest_label=len(task.labels.foreground_labels) + 1,
    )
    for _ in range(STEPS):
        run_training_step(learner, batch)


def main(path: Path) -> None:
    """Compiles what a file asks for."""
    stop_with_parent()
    compile_step(read_document(path, CompilingTask))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
