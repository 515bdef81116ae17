"""Error of the centre distance of objects, which the parts of their classes stand for.

The distance that is expected of a distribution over steps, as boxes are found by Li et al. 2020 (generalized focal
loss, arXiv:2006.04388): cross entropy alone does not know that a step is nearer to its neighbours than to others.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from autoseg.plan.losses import CentreDistanceTerm
from autoseg.runtime.distributed import BatchPart
from autoseg.training.losses.exclusive_classes import average_over_voxels
from autoseg.training.losses.targets import Target, place_table


def compute_centre_distance(
    term: CentreDistanceTerm, logits: Float[Tensor, "batch output *space"], target: Target, part: BatchPart
) -> Float[Tensor, ""]:
    """Computes the mean of |sum over k of v_k (p_k - t_k)| over voxels and classes.

    v_k: centre distance of part k of a class; p_k: its probability; t_k: 1 where the voxel is of it, else 0. So the
    map of a class is compared with 0 outside of it.
    """
    distances = place_table((term.part_distances,), logits.device, logits.dtype)[0]
    errors = logits.softmax(1)[:, 1:] - target.masks.to(logits.dtype)
    of_parts = errors.reshape(len(errors), len(term.part_distances), -1, *errors.shape[2:])
    expected = torch.tensordot(distances, of_parts, dims=([0], [1]))
    return average_over_voxels(expected.abs(), target, part)
