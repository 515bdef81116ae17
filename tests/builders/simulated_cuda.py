"""A CUDA device without CUDA: tensors that say they are on it, with values that the CPU computes.

What a GPU would refuse, or wait for, is recorded with its place: CPU tensors among those of the device, values that are
read, copies of memory that is not page-locked, generators of the wrong device. Autocast casts by the lists of CUDA.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import autoseg
from autoseg.runtime.cuda_graphs import COPYING_OPERATIONS, INDEXING_OPERATIONS, READING_OPERATIONS
from autoseg.runtime.streams import find_stream

DEVICE: Final = torch.device("cuda", 0)
SOURCES: Final = Path(autoseg.__file__).parent
WAITING: Final = READING_OPERATIONS | {"multinomial", "repeat_interleave", "histc", "is_nonzero"}
"""Operations that wait for the device."""
# docs.pytorch.org/docs/stable/amp.html, "CUDA Ops that can autocast"
LOWERED: Final = frozenset(
    {
        "matmul",
        "__matmul__",
        "bmm",
        "baddbmm",
        "addmm",
        "addbmm",
        "linear",
        "mv",
        "mm",
        "einsum",
        "prelu",
        "chain_matmul",
    }
    | {f"conv{transposed}{axes}d" for transposed in ("", "_transpose") for axes in (1, 2, 3)}
    | {"scaled_dot_product_attention", "multi_head_attention_forward"}
)
RAISED: Final = frozenset(
    {"acos", "asin", "cosh", "cumprod", "cumsum", "dist", "erfinv", "exp", "expm1", "log", "log10", "log1p", "log2"}
    | {"norm", "pow", "__pow__", "prod", "reciprocal", "rsqrt", "sinh", "softplus", "sum", "renorm", "tan", "logsumexp"}
    | {"softmax", "log_softmax", "layer_norm", "group_norm", "cosine_similarity", "kl_div", "l1_loss", "mse_loss"}
    | {"nll_loss", "smooth_l1_loss", "huber_loss", "cross_entropy", "binary_cross_entropy_with_logits", "interpolate"}
)
WIDENED: Final = frozenset(
    {"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sample", "index_put", "scatter_add", "tensordot"}
    | {"cat", "stack"}
)


@dataclass(slots=True, kw_only=True)
class Findings:
    """What a GPU would refuse or wait for.

    Attributes:
        found: What, and where: the file, the line and the function of autoseg.
        operations: Number of operations on the device.
    """

    found: list[str] = field(default_factory=list)
    operations: int = 0

    def add(self, what: str) -> None:
        """Records something at the innermost place within autoseg."""
        place, frame = "not in autoseg", sys._getframe().f_back
        while frame is not None and place == "not in autoseg":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(SOURCES):
                place = f"{path.relative_to(SOURCES)}:{frame.f_lineno} {frame.f_code.co_name}"
            frame = frame.f_back
        self.found.append(f"{what} ({place})")


_current: list[Findings] = []
_pinned: Final = "_is_page_locked"


class SimulatedTensor(Tensor):
    """Says that it is on the device; `held` has its values. PyTorch itself takes it to be on the meta device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "SimulatedTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    @property
    def data(self) -> Tensor:
        """The tensor without its history."""
        return self.detach()

    @data.setter
    def data(self, other: "SimulatedTensor") -> None:
        Tensor.data.__set__(self, other)
        self.held = other.held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_device(func, args, kwargs or {})

    def numpy(self, *, force: bool = False) -> Any:
        """Refused by CUDA tensors."""
        _current[-1].add("numpy() of a CUDA tensor")
        return self.held.detach().numpy(force=force)

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        """Copies numbers to the device."""
        return torch.tensor(data, **{"dtype": self.dtype, "device": DEVICE, **options})

    def tolist(self) -> Any:
        """Waits for the device."""
        _current[-1].add("tolist waits for the device")
        return self.held.tolist()

    def record_stream(self, stream: Any) -> None:
        """There are no streams."""

    def __deepcopy__(self, memo: Any) -> "SimulatedTensor":
        copy = SimulatedTensor(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, requires_grad=self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"SimulatedTensor({tuple(self.shape)}, {self.dtype})"


def run_on_device(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation of tensors of the device, or one that makes some, on what they hold."""
    findings, name = _current[-1], func.overloadpacket.__name__
    findings.operations += 1
    device = kwargs.get("device")
    target = None if device is None else torch.device(device)
    if target is not None and target.type == "meta":  # where PyTorch itself asks for the device of another tensor
        target = DEVICE
    _look_for_obstacles(findings, func, (args, kwargs), target)
    if name == "_fused_sdp_choice":
        return 0  # plain matrix products, which every device has
    leaves = tree_leaves((args, kwargs))
    known = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, SimulatedTensor)}
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    is_pinned = bool(kwargs.get("pin_memory"))
    if is_pinned:
        kwargs = {**kwargs, "pin_memory": False}

    def hold(leaf: Any) -> Any:
        return leaf.held if isinstance(leaf, SimulatedTensor) else leaf

    result = func(*tree_map(hold, args), **tree_map(hold, kwargs))
    stays = (target is None or target.type == "cuda") and not (name == "copy_" and id(result) not in known)

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or isinstance(leaf, SimulatedTensor):
            return leaf
        if id(leaf) in known:
            return known[id(leaf)]
        return SimulatedTensor(leaf) if stays else leaf

    return tree_map(wrap, result)


def _look_for_obstacles(findings: Findings, func: Any, given: Any, target: torch.device | None) -> None:
    args, kwargs = given
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    outside = [tensor for tensor in tensors if not isinstance(tensor, SimulatedTensor)]
    is_here = len(outside) < len(tensors)
    if name in COPYING_OPERATIONS:
        _look_at_copy(findings, func, given, target)
        return
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        findings.add(f"{name} with a generator of the CPU")
    if not is_here:
        return
    if name in WAITING and not (name == "repeat_interleave" and kwargs.get("output_size") is not None):
        findings.add(f"{name} waits for the device")
    if name in INDEXING_OPERATIONS:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        is_filled = "put" in name and args[2].numel() == 1
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not is_filled:
            findings.add(f"{name} with a mask waits for the device")
    allows_numbers = torch.Tag.pointwise in func.tags or name.startswith(("_foreach", "fill", "masked_fill", "where"))
    wrong = [tensor for tensor in outside if tensor.ndim > 0 or not allows_numbers]
    if wrong:
        findings.add(f"{name} of a CPU tensor {tuple(wrong[0].shape)} and CUDA tensors")


def _look_at_copy(findings: Findings, func: Any, given: Any, target: torch.device | None) -> None:
    args, kwargs = given
    name = func.overloadpacket.__name__
    is_from_here = isinstance(args[1] if name == "copy_" else args[0], SimulatedTensor)
    is_to_here = isinstance(args[0], SimulatedTensor) if name == "copy_" else (target or DEVICE).type == "cuda"
    if name == "_to_copy" and target is None:
        is_to_here = is_from_here
    if is_from_here == is_to_here:
        return
    host = args[0] if name == "_to_copy" or is_from_here else args[1]
    if host.numel() == 0:  # nothing is copied
        return
    is_async = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    is_pinned = getattr(host, _pinned, False)
    if is_from_here and not (name == "copy_" and is_async and is_pinned):
        findings.add("a copy to the CPU waits for the device")
    if not is_from_here and not (is_async and is_pinned):
        kind = "waits for the device" if not is_async else "is of memory that is not page-locked"
        findings.add(f"a copy of {tuple(host.shape)} to the device {kind}")


class _Factories(TorchDispatchMode):
    """Makes tensors on the device, and page-locked ones."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if device is not None and torch.device(device).type in ("cuda", "meta"):
            return run_on_device(func, args, kwargs)
        if kwargs.get("pin_memory"):
            return mark_pinned(func(*args, **{**kwargs, "pin_memory": False}))
        return func(*args, **kwargs)


class _Autocast(TorchFunctionMode):
    """Casts what functions get, as CUDA's autocast does, and places numbers where PyTorch would lose them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.where and isinstance(args[0], SimulatedTensor):
            args = (
                args[0],
                *(SimulatedTensor(torch.tensor(arg)) if isinstance(arg, (int, float)) else arg for arg in args[1:]),
            )
        if torch.is_autocast_enabled("cuda"):
            args, kwargs = cast(getattr(func, "__name__", ""), (args, kwargs))
        return func(*args, **kwargs)


def cast(name: str, given: Any) -> Any:
    """Casts the tensors of the device that are given to a function of this name."""
    low = torch.get_autocast_dtype("cuda")
    tensors = [
        leaf for leaf in tree_leaves(given) if isinstance(leaf, SimulatedTensor) and leaf.dtype.is_floating_point
    ]
    if name in LOWERED:
        dtype = low
    elif name in RAISED or (name in WIDENED and any(tensor.dtype == torch.float32 for tensor in tensors)):
        dtype = torch.float32
    else:
        return given
    chosen = {id(tensor) for tensor in tensors if tensor.dtype != torch.float64}
    return tree_map(lambda leaf: leaf.to(dtype) if id(leaf) in chosen else leaf, given)


def mark_pinned(tensor: Tensor) -> Tensor:
    """Has a tensor of the CPU be taken for page-locked."""
    setattr(tensor, _pinned, True)
    return tensor


def group_by_device(lists: Sequence[Sequence[Tensor | None]], with_indices: bool = False) -> Any:
    """Groups as PyTorch does, by what tensors say of themselves."""
    groups: dict[Any, tuple[list[list[Any]], list[int]]] = {}
    for index, row in enumerate(zip(*(values or [None] * len(lists[0]) for values in lists), strict=True)):
        members, indices = groups.setdefault((row[0].device, row[0].dtype), ([[] for _ in lists], []))
        for member, value in zip(members, row, strict=True):
            if value is not None:
                member.append(value)
        if with_indices:
            indices.append(index)
    return groups


def _enter_without_gradients(mode: Any) -> None:
    """Inference mode hides from the tests what is read; without it the same is computed."""
    mode.replaced = torch.no_grad() if mode.mode else nullcontext()
    mode.replaced.__enter__()


def _leave_without_gradients(mode: Any, *error: Any) -> None:
    mode.replaced.__exit__(*error)


class _Event(torch.cuda.Event):
    """Has always happened."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Event":
        del args, kwargs
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def synchronize(self) -> None:
        """There is nothing to wait for."""


class _Stream(torch.cuda.Stream):
    """There is one alone."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Stream":
        del args, kwargs
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *args: Any) -> None:
        return None

    def record_event(self, event: Any = None) -> _Event:
        """Records an event."""
        return event or _Event()

    def wait_stream(self, stream: Any) -> None:
        """Does nothing."""

    wait_event = wait_stream

    def synchronize(self) -> None:
        """Does nothing."""


@contextmanager
def simulate_cuda() -> Iterator[Findings]:
    """Has PyTorch work on the device `cuda:0` within the context, and records what a GPU would refuse or wait for."""
    if torch.backends.cuda.is_built():
        pytest.skip("this PyTorch has a CUDA of its own")
    findings = Findings()
    replaced: dict[str, Callable[..., Any]] = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_bf16_supported": lambda **_: True,
        "torch.cuda.current_stream": _Stream,
        "torch.cuda.stream": _Stream,
        "torch.cuda.Stream": _Stream,
        "torch.cuda.device": _Stream,
        "torch.cuda.set_device": lambda device: None,
        "torch.cuda.synchronize": lambda device: None,
        "torch.Tensor.pin_memory": lambda tensor, device=None: mark_pinned(tensor.clone()),
        "torch.Tensor.is_pinned": lambda tensor, device=None: getattr(tensor, _pinned, False),
        "torch.inference_mode.__enter__": _enter_without_gradients,
        "torch.inference_mode.__exit__": _leave_without_gradients,
        "torch._C._group_tensors_by_device_and_dtype": group_by_device,
    }
    with ExitStack() as stack:
        for target, replacement in replaced.items():
            stack.enter_context(patch(target, replacement))
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        find_stream.cache_clear()
        stack.callback(find_stream.cache_clear)
        _current.append(findings)
        stack.callback(_current.pop)
        stack.enter_context(_Factories())
        stack.enter_context(_Autocast())
        yield findings
