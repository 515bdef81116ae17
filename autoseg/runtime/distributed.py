"""Data-parallel training on several devices: batches are divided, gradients and sums taken over all processes.

The result is that of the undivided batch, up to rounding: a sample depends on its index in the batch alone, the loss is
made of sums over the whole batch, and gradients are sums over the processes. Processes are started by autoseg's queue
or by torchrun, and use the environment variables of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autoseg.document import AnyPart
from autoseg.errors import DeviceError, TrainingError

VARIABLES: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Longer than the main process works while the others wait, for a calibration or a validation on whole volumes of a
# large dataset. When a process dies, the queue and torchrun end the others; otherwise they end after this time.
TIMEOUT: Final = timedelta(hours=6)


def keep(value: Tensor) -> Tensor:
    """The sum over one process."""
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """The part of every batch that this process sees; by default all of it.

    Attributes:
        share: Share of the batch's samples.
        add_up: Sums over all parts; the gradient is that of the own summand. Every process must call it alike.
        first: Index in the batch of the first sample.
        batch_size: Samples of the whole batch; None: as many as this process sees.
    """

    share: float = 1.0
    add_up: Callable[[Tensor], Tensor] = keep
    first: int = 0
    batch_size: int | None = None

    def draw(self, draw: Callable[[int], Tensor], count: int) -> Tensor:
        """Draws for the whole batch, and returns what its samples get that this process sees.

        Args:
            draw: Draws for a number of samples.
            count: Number of the samples of this part.
        """
        return draw(self.batch_size or count)[self.first : self.first + count]


WHOLE_BATCH: Final = BatchPart()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """The group of processes that train one network together; by default only this one.

    Attributes:
        rank: Index of this process. The first one, the main process, decides and writes for all.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the main process, which writes."""
        return self.rank == 0

    def select_samples(self, batch_size: int) -> range:
        """Returns the samples of a batch for this process; the numbers of samples differ by at most one.

        Raises:
            TrainingError: There are fewer samples than processes.
        """
        if batch_size < self.size:
            msg = (
                f"a batch of {batch_size} cannot be divided among {self.size} devices; name at most {batch_size} "
                f"devices, or raise training.batch_size in plan.json"
            )
            raise TrainingError(msg)
        first, end = (rank * batch_size // self.size for rank in (self.rank, self.rank + 1))
        return range(first, end)

    def share(self, part: AnyPart) -> AnyPart:
        """Broadcasts a value of the main process."""
        if self.size == 1:
            return part
        text = part.model_dump_json().encode()
        length = torch.tensor(len(text))
        dist.broadcast(length, src=0)
        content = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_main_process:
            content = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        dist.broadcast(content, src=0)
        return type(part).model_validate_json(bytes(content.tolist()))

    def are_any(self, *own: bool) -> list[bool]:
        """Reduces flags over all processes, together: each is true if it is true in any."""
        if self.size == 1:
            return list(own)
        counts = torch.tensor(own, dtype=torch.float32)
        dist.all_reduce(counts)
        return [count > 0 for count in counts.tolist()]

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Runs the block in the main process first, then in the others; all leave it together."""
        if not self.is_main_process:
            self._wait_for_all()
        yield
        if self.is_main_process:
            self._wait_for_all()
        self._wait_for_all()

    def _wait_for_all(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))


SINGLE_PROCESS: Final = ProcessGroup()


@contextmanager
def join_process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Joins the process group within the block; waits for the other processes.

    Raises:
        TrainingError: The process was not started by torchrun or the queue.
        DeviceError: This PyTorch cannot train on several such devices.
    """
    process_group = read_process_group()
    if device.type not in {"cpu", "cuda"} or not dist.is_available():
        msg = f"several devices can train together on Linux with CUDA or on CPUs, not on {device}"
        raise DeviceError(msg)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Values that the processes agree on are in RAM; gradients are on the device.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=process_group.rank, world_size=process_group.size, timeout=TIMEOUT)
    try:
        yield process_group
        dist.barrier()  # a process may still use resources that others release at their end
    finally:
        gc.collect()  # objects that refer to the group (a network with its hooks) must not outlive it
        dist.destroy_process_group()


def read_process_group() -> ProcessGroup:
    """Reads rank and size of the process group from the environment variables of torchrun.

    Raises:
        TrainingError: They are not set.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        msg = f"{', '.join(missing)} must be set, as torchrun does; start this process with torchrun"
        raise TrainingError(msg)
    return ProcessGroup(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]))


def build_batch_part(process_group: ProcessGroup, batch_size: int) -> BatchPart:
    """Builds the part of every batch for this process.

    Raises:
        TrainingError: There are fewer samples than processes.
    """
    if process_group.size == 1:
        return BatchPart()
    samples = process_group.select_samples(batch_size)
    return BatchPart(
        share=len(samples) / batch_size, add_up=sum_over_processes, first=samples.start, batch_size=batch_size
    )


def sum_over_processes(value: Tensor) -> Tensor:
    """Sums over all processes. The gradient flows only to the summand of this process: the gradients of the weights,
    which are summed over the processes, are then those of the whole sum."""
    total = value.detach().clone()
    dist.all_reduce(total)
    return value + (total - value.detach()) if value.requires_grad else total


def replicate(
    network: nn.Module, process_group: ProcessGroup, device: torch.device, *, leaves_out: bool = False
) -> nn.Module:
    """Wraps a network so that `backward` sums the gradients over all processes.

    Args:
        leaves_out: Whether a step may use only a part of the network, the same in all processes.
    """
    if process_group.size == 1:
        return network
    replica = DistributedDataParallel(
        network, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=leaves_out
    )
    replica.register_comm_hook(None, _add_up_gradients)
    return replica


def _add_up_gradients(
    state: object,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch re-exports it from an extension
) -> torch.futures.Future[Tensor]:
    """Communication hook that sums gradients, instead of torch's mean."""
    del state
    sums: torch.futures.Future[list[Tensor]] = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return sums.then(lambda done: done.value()[0])
