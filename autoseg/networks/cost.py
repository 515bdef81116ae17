"""Cost of a network, counted from the network itself; its forward pass on the meta device computes nothing."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from autoseg.network_cost import Convolution, NetworkCost
from autoseg.networks.families import build_network
from autoseg.plan.network.base import NetworkPlan
from autoseg.unet_cost import COUNTED_FAMILIES

META: Final = torch.device("meta")
FLOPS_PER_MULTIPLY_ADD: Final = 2
ATTENTION_ON_CPU: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
COUNT_FLOPS: Final = {  # PyTorch counts fused attention of GPUs alone
    **flop_registry,
    ATTENTION_ON_CPU: flop_registry[torch.ops.aten._scaled_dot_product_flash_attention],
}
NORMALIZATIONS: Final = frozenset(
    {
        torch.ops.aten.native_batch_norm.default,
        torch.ops.aten.native_group_norm.default,
        torch.ops.aten.native_layer_norm.default,
    }
)


def measure_cost(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
    """Counts what a training step of a planned network costs, whatever its family.

    Takes about 0.1 s and no memory; the first network of a process takes some seconds more, to load parts of torch.

    PyTorch's fused attention counts like attention that is written out, with its map of all pairs of positions: on the
    safe side. `attend_without_map` counts as it is computed.
    """
    with META:
        built = build_network(network).train()
        image = torch.empty((batch_size, network.input_channels, *patch_voxels))
    return measure_module_cost(built, image)


def count_cost(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
    """Counts what a training step costs: in closed form where the family has one, else on the network itself."""
    return COUNTED_FAMILIES.get(network.family, measure_cost)(network, patch_voxels, batch_size)


def measure_module_cost(network: nn.Module, image: Float[Tensor, "batch channel *space"]) -> NetworkCost:
    """Counts what a forward pass computes and what autograd keeps of it.

    Args:
        network: Network in training mode that returns a tuple of outputs.
        image: Image on the device of the network. On any other than the meta device, the pass is computed.
    """
    kept = _Storages()
    counter = _Counter()
    with torch.autograd.graph.saved_tensors_hooks(kept.add, _refuse_backward), counter:
        outputs: tuple[Tensor, ...] = network(image)
    parameters = list(network.parameters())
    own = _Storages()
    for tensor in (*parameters, *network.buffers()):
        own.add(tensor)
    return NetworkCost(
        kept_bytes=kept.count_bytes(besides=own),
        parameter_count=sum(parameter.numel() for parameter in parameters),
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
        multiply_adds=counter.convolution_multiply_adds + counter.matrix_multiply_adds,
        matrix_multiply_adds=counter.matrix_multiply_adds,
        convolutions=counter.list_convolutions(besides=outputs),
        normalized_elements=counter.normalized_elements,
        output_elements=sum(output.numel() for output in outputs),
    )


@dataclass(frozen=True, slots=True)
class _Storages:
    """Distinct storages of tensors; references are kept, so that no other storage gets the same identity."""

    by_identity: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.by_identity[id(storage)] = storage

    def count_bytes(self, *, besides: "_Storages") -> int:
        return sum(storage.nbytes() for key, storage in self.by_identity.items() if key not in besides.by_identity)


def _refuse_backward(_: None) -> Tensor:
    msg = "what was counted was not kept: this pass has no backward pass"
    raise AssertionError(msg)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it without annotations
    """Counts every operation below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.matrix_multiply_adds = 0
        self.normalized_elements = 0
        self._convolutions: list[tuple[Tensor, Convolution]] = []

    @property
    def convolution_multiply_adds(self) -> int:
        return sum(convolution.multiply_adds for _, convolution in self._convolutions)

    def list_convolutions(self, *, besides: Iterable[Tensor]) -> tuple[Convolution, ...]:
        """Lists the convolutions that did not write one of the tensors."""
        excluded = {id(tensor.untyped_storage()) for tensor in besides}
        return tuple(
            convolution for written, convolution in self._convolutions if id(written.untyped_storage()) not in excluded
        )

    def __torch_dispatch__(
        self,
        func: Any,  # an overload of an operator
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        written = func(*args, **named)
        count_flops = COUNT_FLOPS.get(func.overloadpacket)
        if func is torch.ops.aten.convolution.default:
            self._convolutions.append((written, _describe_convolution(args, written)))
        elif count_flops is not None:
            self.matrix_multiply_adds += count_flops(*args, **named, out_val=written) // FLOPS_PER_MULTIPLY_ADD
        elif func in NORMALIZATIONS:
            self.normalized_elements += written[0].numel()
        return written


def _describe_convolution(args: tuple[Any, ...], written: Tensor) -> Convolution:
    image, weight, groups = args[0], args[1], args[8]
    is_transposed = args[6]
    # Every number of a transposed convolution's input, and of another one's output, meets the whole kernel of a group.
    meeting = image if is_transposed else written
    return Convolution(
        channels_in=image.shape[1] // groups,
        channels_out=written.shape[1] // groups,
        output_elements=written.numel(),
        multiply_adds=meeting.numel() * math.prod(weight.shape[1:]),
    )
