"""Training steps that are captured once and replayed, where the shape of batches never changes.

The first steps are run as they are: kernels are chosen, memory is reserved, the optimizer makes its state. The next one
is captured and replayed on the same batch, so that no step is run twice and none is left out. Anything that prevents a
capture is announced, and steps are then run as they are.

Where the slices across each axis have a network of their own, the steps of each are captured by themselves.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from autoseg.runtime.cuda_graphs import CapturedWork, CudaGraphs, GraphBackend, rehearse
from autoseg.runtime.device import describe_error, is_out_of_memory
from autoseg.training.data.batch import Batch
from autoseg.training.objectives.objective import Objective

Step = Callable[[Batch], Tensor]


@dataclass(slots=True, kw_only=True)
class StepGraph:
    """The captured step of a learner, one for each plane of its batches.

    Attributes:
        backend: Captures it.
        announce: Called with the reason, in words, if steps are not replayed.
        steps_before: Number of steps that are run before one is captured.
        is_rehearsed: Whether the last of them is looked at for what prevents a capture.
        problem: The reason why steps are not captured; None while they are or will be.
    """

    backend: GraphBackend
    announce: Callable[[str], None]
    steps_before: int = 2
    is_rehearsed: bool = True
    problem: str | None = None
    _begun: Counter[int] = field(default_factory=Counter)
    _captured: dict[int, tuple[Batch, CapturedWork]] = field(default_factory=dict)
    _is_other_shape_told: bool = False

    @property
    def is_captured(self) -> bool:
        """Whether steps are replayed, and the graph keeps the memory of one."""
        return bool(self._captured)

    def run(self, batch: Batch, step: Step, *, forget: Callable[[], None]) -> Tensor:
        """Runs a step on a batch, which is on the device, and returns what `step` returns.

        Args:
            batch: Batch to train with.
            step: The step; it is recorded when it is called for the first time after `steps_before` calls for batches
                of the same plane.
            forget: Restores what a step that was not finished has left behind in Python.
        """
        if self.problem is not None:
            return step(batch)
        if self._begun[batch.plane] < self.steps_before:
            self._begun[batch.plane] += 1
            return self._warm_up(batch, step, forget)
        if batch.plane not in self._captured:
            self._capture(batch, step, forget)
        inputs, captured = self._captured.get(batch.plane, (None, None))
        if captured is None or inputs is None or not self._fits(batch, inputs):
            return step(batch)
        inputs.copy_from(batch)
        captured.replay()
        return captured.result.clone()

    def _warm_up(self, batch: Batch, step: Step, forget: Callable[[], None]) -> Tensor:
        try:
            return self.backend.warm_up(partial(self._run_before, batch, step))
        except Exception as error:  # whatever is raised, but too little memory: the step needs as much without a graph
            if is_out_of_memory(error):
                raise
            self._give_up(f"a step before the first one failed ({describe_error(error)})")
        forget()
        return step(batch)

    def _run_before(self, batch: Batch, step: Step) -> Tensor:
        if self._begun[batch.plane] < self.steps_before or not self.is_rehearsed:
            return step(batch)
        loss, obstacle = rehearse(partial(step, batch), batch.image.device)
        if obstacle is not None:
            self._give_up(obstacle)
        return loss

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        self._captured.clear()
        self.announce(f"training steps are not replayed as a CUDA graph: {problem}")

    def _capture(self, batch: Batch, step: Step, forget: Callable[[], None]) -> None:
        inputs = replace(batch, image=batch.image.clone(), label_map=batch.label_map.clone())
        try:
            self._captured[batch.plane] = inputs, self.backend.capture(lambda: step(inputs))
        except Exception as error:  # whatever is raised, the step can be run without a graph
            self._give_up(f"capturing one failed ({describe_error(error)})")
            forget()

    def _fits(self, batch: Batch, inputs: Batch) -> bool:
        if (batch.image.shape, batch.label_map.shape) == (inputs.image.shape, inputs.label_map.shape):
            return True
        if not self._is_other_shape_told:
            self._is_other_shape_told = True
            shapes = f"{tuple(batch.image.shape)}, captured with {tuple(inputs.image.shape)}"
            self.announce(f"a batch of another shape is trained without the CUDA graph ({shapes})")
        return False


def build_step_graph(
    objective: Objective,
    device: torch.device,
    announce: Callable[[str], None],
    *,
    problem: str | None = None,
    is_rehearsed: bool = True,
) -> StepGraph:
    """Prepares the graph of the steps of a learner; its `problem` tells if there can be none.

    Args:
        objective: Objective of the learner.
        device: Device that trains.
        announce: Called with the reason, in words, if steps are not replayed.
        problem: A known reason why there can be none.
        is_rehearsed: Whether a step is looked at before one is captured; a compiled one cannot be.
    """
    if problem is None:
        problem = objective.find_capture_problem() if device.type == "cuda" else f"{device.type} has no CUDA graphs"
    return StepGraph(backend=CudaGraphs(device=device), announce=announce, problem=problem, is_rehearsed=is_rehearsed)
