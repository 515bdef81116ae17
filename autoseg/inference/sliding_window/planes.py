"""Prediction of slices across several axes of a volume, by one network or by one for each axis."""

from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from autoseg.geometry import list_plane_order
from autoseg.inference.sliding_window.mirroring import ChannelExchange
from autoseg.inference.sliding_window.prediction import OnWindow, predict_logits
from autoseg.inference.sliding_window.windows import count_plane_windows, count_windows, order_extents
from autoseg.networks.parts.planes import select_plane
from autoseg.plan.document import ConfigurationPlan


@torch.inference_mode()
def predict_planes(
    networks: nn.Module | Sequence[nn.Module],
    image: Float32[Tensor, "channel z y x"],
    *,
    configuration: ConfigurationPlan,
    mirror_axes: Sequence[int],
    exchange: ChannelExchange | None = None,
    device: torch.device,
    step_fraction: float = 0.5,
    inference_batch_size: int | None = None,
    on_window: OnWindow | None = None,
) -> Float32[Tensor, "class z y x"]:
    """Averages the logits of the slices across each of the plan's axes; a plan of one axis keeps those of that axis.

    Logits are averaged, as for mirrored views: all are views of one volume by the same networks. Arguments and errors
    are those of `predict_logits`, but that windows of all axes are counted.
    """
    shape, total, done = image.shape[1:], None, 0
    window_count = count_windows(shape, configuration, step_fraction)
    listed = [networks] if isinstance(networks, nn.Module) else networks
    for plane, axis in enumerate(configuration.plane_axes):
        order = list_plane_order(axis)
        logits = predict_logits(
            [select_plane(network, plane) for network in listed],
            image.permute(0, *(1 + other for other in order)).contiguous(),
            configuration=configuration,
            mirror_axes=mirror_axes,
            exchange=exchange,
            device=device,
            step_fraction=step_fraction,
            inference_batch_size=inference_batch_size,
            on_window=_continue_count(on_window, done, window_count),
        )
        done += count_plane_windows(order_extents(shape, axis), configuration, step_fraction)
        restored = logits.permute(0, *(1 + order.index(place) for place in range(3)))
        total = restored if total is None else _add(total, restored)
    assert total is not None, "a plan has an axis"
    count = len(configuration.plane_axes)
    return total if count == 1 else total.div_(count)


def _add(total: Tensor, part: Tensor) -> Tensor:
    """Adds logits that may lie on another device, one class after the other; returns the sum."""
    for of_class, other in zip(total, part, strict=True):
        of_class.add_(other.to(total.device))
    return total


def _continue_count(on_window: OnWindow | None, done_before: int, window_count: int) -> OnWindow | None:
    """Returns what to call with the windows of one axis, so that those of all are counted."""
    if on_window is None:
        return None
    return lambda done, _: on_window(done_before + done, window_count)
