"""Parts of a network that a user may replace, so that it becomes a combination that no paper has."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, Final, TypeVar, get_args

from autoseg.document import suggest_key
from autoseg.errors import PlanError
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import NetworkPlan
from autoseg.plan.network.attentions import (
    ConcurrentExcitationPlan,
    ConvolutionalAttentionPlan,
    DualExcitationPlan,
    SqueezeExcitationPlan,
)
from autoseg.plan.network.blocks import (
    BlockPlan,
    CspRepPlan,
    DensePlan,
    InceptionPlan,
    MultiResPlan,
    PlainBlockPlan,
    RecurrentResidualPlan,
    RepPlan,
    ResidualBlockPlan,
    ResidualStagePlan,
    ResidualUPlan,
    SeparablePlan,
)
from autoseg.plan.network.contexts import (
    ContextPlan,
    DenseDilationPlan,
    GraphUNetPlan,
    MultiKernelPoolingPlan,
    NonLocalPlan,
    PyramidPoolingPlan,
)
from autoseg.plan.network.layers import Activation, Downsampling, Normalization, Upsampling
from autoseg.plan.network.skips import AdditionPlan, AttentionGatePlan, ConcatenationPlan, ResidualPathPlan
from planners.architectures.additive_u import AdditiveUProfile
from planners.architectures.architecture import Architecture, ChooseArchitecture
from planners.architectures.contexts import ASPP, DUAL_ATTENTION, TOKENS_LIMIT
from planners.architectures.encoder_u import EncoderUProfile
from planners.architectures.nested_u import NestedUProfile
from planners.architectures.u_shaped import UShapedProfile
from planners.architectures.unpadded import build_unpadded_topology
from planners.reasons import record
from planners.rules.topology import Topology, compute_topology

Row = TypeVar("Row")
Fields = Mapping[str, Any]
NONE: Final = "none"

_BLOCKS: Final[Mapping[str, tuple[BlockPlan, tuple[int, ...]]]] = {
    "plain": (PlainBlockPlan(), (2,)),
    "residual": (ResidualBlockPlan(), (1,)),
    "residual_stage": (ResidualStagePlan(), (1, 2, 3)),
    "recurrent_residual": (RecurrentResidualPlan(recurrences=2), (1,)),
    "multires": (MultiResPlan(width=1.67), (1,)),
    "dense": (DensePlan(growth=0.125), (4,)),
    "inception": (InceptionPlan(), (2,)),
    "separable": (SeparablePlan(), (2,)),
    "rep": (RepPlan(), (2,)),
    "csp_rep": (CspRepPlan(), (2,)),
    "rsu": (ResidualUPlan(reduction=4, dilated_reduction=2), (1,)),
}
"""Each with the blocks per stage of the architecture that has it; two, as of plain convolutions, where none has."""
_CONTEXTS: Final[Mapping[str, ContextPlan]] = {
    "spp": PyramidPoolingPlan(grids=(1, 2, 3, 6)),  # PSPNet
    "aspp": ASPP,
    "dac": DenseDilationPlan(),
    "rmp": MultiKernelPoolingPlan(kernels=(2, 3, 5, 6)),  # CE-Net
    "non_local": NonLocalPlan(heads=2, tokens_limit=TOKENS_LIMIT),
    "dual_attention": DUAL_ATTENTION,
    "graph_unet": GraphUNetPlan(kept_fractions=(0.9, 0.7, 0.6, 0.5)),
}
PARTS: Final[Mapping[str, Mapping[str, Fields]]] = {
    "block": {
        name: {"block": block, "decoder_block": None, "encoder_blocks": counts, "decoder_blocks": counts}
        for name, (block, counts) in _BLOCKS.items()
    },
    "decoder_block": {
        name: {"decoder_block": block, "decoder_blocks": counts} for name, (block, counts) in _BLOCKS.items()
    },
    "skip": {
        "concatenation": {"skip": ConcatenationPlan()},
        "addition": {"skip": AdditionPlan()},
        "attention_gate": {"skip": AttentionGatePlan(signal="below", gates=1, reduction=1)},
        "residual_path": {"skip": ResidualPathPlan()},
    },
    "context": {NONE: {"contexts": ()}} | {name: {"contexts": (context,)} for name, context in _CONTEXTS.items()},
    "attention": {
        NONE: {"attention": None},
        "se": {"attention": SqueezeExcitationPlan(reduction=16)},
        "cbam": {"attention": ConvolutionalAttentionPlan(reduction=16, kernel=7)},
        "scse": {"attention": ConcurrentExcitationPlan(reduction=2)},
        "dual_excitation": {"attention": DualExcitationPlan(reduction=16)},
    },
    "normalization": {name: {"normalization": name} for name in get_args(Normalization)},
    "activation": {name: {"activation": name} for name in get_args(Activation)},
    "downsampling": {name: {"downsampling": name} for name in get_args(Downsampling)},
    "upsampling": {name: {"upsampling": name} for name in get_args(Upsampling)},
}
"""The fields of a profile that each value of each part replaces; the parameters of a part are those of its
architecture. Contexts may be joined by "+", one after the other."""
TAKEN: Final[Mapping[type, tuple[str, ...]]] = {
    UShapedProfile: tuple(PARTS),
    NestedUProfile: ("block", "normalization", "activation"),
    AdditiveUProfile: ("normalization", "activation"),
    EncoderUProfile: ("context",),
}
"""The parts that may be replaced in the networks of a profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinedNetworks:
    """Chooses the networks of an architecture with other parts.

    Attributes:
        choose_network: Chooses them.
        parts: The parts that were asked for, in words.
        origin: Name of the architecture.
    """

    choose_network: ChooseArchitecture
    parts: str
    origin: str

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[NetworkPlan, tuple[Reason, ...]]:
        """Returns the network, with the parts that were asked for as a further reason."""
        network, reasons = self.choose_network(
            topology, input_channels=input_channels, output_channels=output_channels, width=width
        )
        asked = Decision(self.parts, f"asked for, in place of those of {self.origin}")
        return network, (*reasons, record("parts", asked, self.parts))


def replace_parts(architecture: Architecture, parts: Mapping[str, str]) -> Architecture:
    """Returns an architecture with other parts, for which every planner plans patch, batch and memory.

    Args:
        architecture: A row of `ARCHITECTURES`.
        parts: Values of `PARTS` by the names of the parts; contexts may be joined by "+".

    Raises:
        PlanError: There is no such part or value, or the networks of the architecture cannot have it.
    """
    if not parts:
        return architecture
    for name in parts:
        _find(name, PARTS, kind="part")
    profile: Any = architecture.choose_network
    taken = TAKEN.get(type(profile), ())
    refused = [name for name in parts if name not in taken]
    if refused:
        offered = f"takes {', '.join(taken)}" if taken else "takes none"
        msg = (
            f"--part {refused[0]} does not fit {architecture.name}, which {offered}; leave it out, or choose an "
            f"--architecture that has it, such as u_net"
        )
        raise PlanError(msg)
    chosen = {name: parts[name] for name in PARTS if name in parts}
    combined = reduce(lambda made, part: _replace_fields(made, _find_fields(*part)), chosen.items(), profile)
    topology = architecture.topology
    if isinstance(combined, UShapedProfile) and combined.padding == "valid":
        _check_padding(architecture.name, combined)
        topology = build_unpadded_topology(combined)
    options = "".join(f" --part {name}={value}" for name, value in chosen.items())
    words = ", ".join(f"{name} {value}" for name, value in chosen.items())
    networks = CombinedNetworks(choose_network=combined, parts=words, origin=architecture.name)
    return replace(architecture, name=f"{architecture.name}{options}", choose_network=networks, topology=topology)


def _find_fields(part: str, value: str) -> Fields:
    rows = PARTS[part]
    if part != "context" or "+" not in value:
        return _find(value, rows, kind=part)
    found = [_find(name, rows, kind=part)["contexts"] for name in value.split("+")]
    if () in found:
        msg = f"the context {value!r} joins {NONE!r} with others; leave it out"
        raise PlanError(msg)
    return {"contexts": tuple(context for contexts in found for context in contexts)}


def _replace_fields(profile: Any, changes: Fields) -> Any:
    """Replaces fields that the profile has, those of its layers among them."""
    layers = {name: value for name, value in changes.items() if name in ("normalization", "activation")}
    if layers:
        return replace(profile, layers=profile.layers.model_copy(update=layers))
    known = {field.name for field in fields(profile)}
    return replace(profile, **{name: value for name, value in changes.items() if name in known})


def _check_padding(name: str, profile: UShapedProfile) -> None:
    """Refuses parts that need padding for an architecture without."""
    padded, _ = replace(profile, padding="same")(
        compute_topology((1.0, 1.0), (64, 64)), input_channels=1, output_channels=2
    )
    problems = list(padded.list_padded_parts())
    if problems:
        msg = f"{name} has convolutions without padding, which {', '.join(problems)} cannot do without; choose others"
        raise PlanError(msg)


def _find(name: str, rows: Mapping[str, Row], *, kind: str) -> Row:
    if name not in rows:
        msg = f"no {kind} is called {name!r}{suggest_key(name, list(rows))}; choose one of: {', '.join(rows)}"
        raise PlanError(msg)
    return rows[name]
