"""A batch of patches."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int16
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Patches and their internal labels (0 and up; the ignore label is the last).

    Attributes:
        plane: Index in `plane_axes` of the axis across which all slices lie, where each axis has a network.
    """

    image: Float32[Tensor, "batch channel *space"]
    label_map: Int16[Tensor, " batch *space"]
    plane: int = 0

    def share_memory(self) -> None:
        """Moves the batch to memory that other processes can read.

        Raises:
            RuntimeError: There is not enough of it.
        """
        self.image.share_memory_()  # type: ignore[no-untyped-call]  # torch has no annotation
        self.label_map.share_memory_()  # type: ignore[no-untyped-call]  # torch has no annotation

    def pin_memory(self) -> "Batch":
        """Returns a page-locked copy, which a CUDA device reads asynchronously (called by torch's loader)."""
        return replace(self, image=self.image.pin_memory(), label_map=self.label_map.pin_memory())

    def copy_from(self, other: "Batch") -> None:
        """Overwrites the batch by another one of the same shape."""
        self.image.copy_(other.image, non_blocking=True)
        self.label_map.copy_(other.label_map, non_blocking=True)

    def move_to(self, device: torch.device) -> "Batch":
        """Returns a copy on the device."""
        return replace(
            self,
            image=self.image.to(device, non_blocking=True),
            label_map=self.label_map.to(device, non_blocking=True),
        )


def draw_random_batch(size: int, channels: int, patch_voxels: tuple[int, ...], *, highest_label: int) -> Batch:
    """Draws a batch of noise on the CPU."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        image=torch.randn((size, channels, *patch_voxels), generator=generator),
        label_map=torch.randint(highest_label, (size, *patch_voxels), generator=generator, dtype=torch.int16),
    )
