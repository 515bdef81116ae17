"""Networks whose forward pass is captured as a CUDA graph, for one batch size."""

import logging
from collections.abc import Callable, Sequence
from weakref import WeakSet

from jaxtyping import Float32
from torch import Tensor, nn

from autoseg.runtime.cuda_graphs import CapturedWork, GraphBackend, rehearse
from autoseg.runtime.device import describe_error, is_out_of_memory

PASSES_BEFORE = 2  # kernels are chosen and compiled, memory is reserved

logger = logging.getLogger(__name__)


class CapturedNetwork(nn.Module):
    """A network whose forward pass is replayed; its first passes are run as they are.

    Smaller batches that are at least half as large are filled up with what was in the one before; others, which are
    rare, run as they are. What prevents a capture is a warning in the log, and all passes then run as they are; so is
    a first pass that fails, as where a kernel cannot be compiled.

    Attributes:
        companions: The networks whose captured passes share memory with those of this one, itself included.
    """

    def __init__(
        self,
        network: nn.Module,
        graphs: GraphBackend,
        *,
        inference_batch_size: int,
        is_rehearsed: bool = True,
        fall_back: Callable[[nn.Module], object] | None = None,
    ) -> None:
        """Wraps a network.

        Args:
            network: Returned by `prepare_network`, or compiled.
            graphs: Captures the passes; the folds of an ensemble, which run in turn, share one, and its memory.
            inference_batch_size: The batch size to capture.
            is_rehearsed: Whether a pass is looked at before one is captured; a compiled one cannot be.
            fall_back: Has the network do without what may fail, when a first pass has failed; None: nothing may.
        """
        super().__init__()
        self.network = network
        self.graphs = graphs
        self.inference_batch_size = inference_batch_size
        self.is_rehearsed = is_rehearsed
        self.fall_back = fall_back
        self.companions: WeakSet[CapturedNetwork] = WeakSet({self})
        self.passes_before = PASSES_BEFORE
        self.problem: str | None = None
        self._inputs: Tensor | None = None
        self._captured: CapturedWork | None = None

    def forward(self, image: Float32[Tensor, "batch channel *space"]) -> tuple[Float32[Tensor, "batch output ..."]]:
        """Returns logits of the full resolution, and nothing else."""
        if self.problem is not None or not self.inference_batch_size / 2 <= len(image) <= self.inference_batch_size:
            return (self._call(image),)
        if self._captured is None and len(image) == self.inference_batch_size:
            if self.passes_before > 0:
                return (self._run_before(image),)
            self._capture(image)
        if self._captured is None or self._inputs is None or self._inputs.shape[1:] != image.shape[1:]:
            return (self._call(image),)
        self._inputs[: len(image)].copy_(image)
        self._captured.replay()
        return (self._captured.result[: len(image)].clone(),)

    def release(self) -> None:
        """Frees the memory of the captured pass; passes are run as they are from now on."""
        self.problem = "the memory did not suffice"
        self._captured = self._inputs = None

    def _call(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)[0]
        return logits

    def _run_before(self, image: Tensor) -> Tensor:
        self.passes_before -= 1
        try:
            return self._warm_up(image)
        except Exception as error:  # whatever is raised, but too little memory, which the caller has a remedy for
            if is_out_of_memory(error):
                raise
            self._give_up(f"a first pass failed ({describe_error(error)})")
        if self.fall_back is not None:
            self.fall_back(self.network)
        return self._call(image)

    def _warm_up(self, image: Tensor) -> Tensor:
        if self.passes_before > 0 or not self.is_rehearsed:
            return self.graphs.warm_up(lambda: self._call(image))
        obstacles: list[str | None] = []

        def run() -> Tensor:
            logits, obstacle = rehearse(lambda: self._call(image), image.device)
            obstacles.append(obstacle)
            return logits

        logits = self.graphs.warm_up(run)
        if obstacles[0] is not None:
            self._give_up(obstacles[0])
        return logits

    def _capture(self, image: Tensor) -> None:
        inputs = image.clone()
        try:
            self._captured = self.graphs.capture(lambda: self._call(inputs))
        except Exception as error:  # whatever is raised, the network can be run without a graph
            self._give_up(f"capturing one failed ({describe_error(error)})")
        else:
            self._inputs = inputs

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        logger.warning("passes of the network are not replayed as a CUDA graph: %s", problem)


def capture_networks(
    networks: Sequence[nn.Module],
    graphs: GraphBackend,
    *,
    inference_batch_size: int,
    is_rehearsed: bool = True,
    fall_back: Callable[[nn.Module], object] | None = None,
) -> tuple[nn.Module, ...]:
    """Wraps the networks of an ensemble, see `CapturedNetwork`; their passes share memory, as they run in turn."""
    captured = tuple(
        CapturedNetwork(
            network,
            graphs,
            inference_batch_size=inference_batch_size,
            is_rehearsed=is_rehearsed,
            fall_back=fall_back,
        )
        for network in networks
    )
    companions = WeakSet(captured)
    for each in captured:
        each.companions = companions
    return captured


def release_captured(networks: Sequence[nn.Module]) -> None:
    """Frees the memory of all captured passes of networks, also within others, where something else needs it.

    Memory is free only when no pass is left that shares it, so the companions of the networks are released, too.
    """
    for network in networks:
        for module in network.modules():
            if isinstance(module, CapturedNetwork):
                for companion in module.companions:
                    companion.release()
