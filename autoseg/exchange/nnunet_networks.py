"""Conversion between nnU-Net's descriptions of networks and ours; what cannot be expressed is refused by name."""

from collections.abc import Sequence
from typing import Final, Literal

from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_schema import (
    ArchitectureArguments,
    NnunetArchitecture,
    NnunetConfiguration,
    PerStage,
    PerStageAndAxis,
)
from autoseg.plan.network import NETWORK_PLANS, NetworkPlan, PlainUNetPlan, ResidualEncoderUNetPlan, UNetPlan

NETWORKS: Final[dict[str, type[PlainUNetPlan] | type[ResidualEncoderUNetPlan]]] = {
    "PlainConvUNet": PlainUNetPlan,
    "ResidualEncoderUNet": ResidualEncoderUNetPlan,
}
"""Our plans by nnU-Net's names of the networks that both have."""
BLOCKS: Final = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
"""nnU-Net's name for the number of blocks of each encoder stage."""
CLASS_PREFIX: Final = "dynamic_network_architectures.architectures.unet."
CONVOLUTIONS: Final[dict[str, Literal[2, 3]]] = {"Conv2d": 2, "Conv3d": 3}
FEWEST_STAGES: Final = 2
FEWEST_SUPERVISED_STAGES: Final = 3  # with two, the only output has no weight in the loss
NORM_EPSILON: Final = 1e-5
SLOPE: Final = 0.01
OLD_FIELDS: Final = (
    "UNet_class_name",
    "UNet_base_num_features",
    "unet_max_num_features",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "pool_op_kernel_sizes",
    "conv_kernel_sizes",
)


def build_network_plan(
    configuration: NnunetConfiguration, *, input_channels: int, output_channels: int, where: str
) -> UNetPlan:
    """Our description of the network of a configuration.

    Raises:
        ExchangeError: The network is none that can be built here; the message names what is different.
    """
    foreign = configuration.architecture or _modernize(configuration, where)
    name = foreign.network_class_name.rpartition(".")[2]
    if name not in NETWORKS:
        msg = (
            f"{where} has the network {foreign.network_class_name}, which autoseg does not have; "
            f"networks that can be imported: {', '.join(NETWORKS)}"
        )
        raise ExchangeError(msg)
    arguments = foreign.arch_kwargs
    dimensions = CONVOLUTIONS.get(arguments.conv_op.rpartition(".")[2], 3)
    _check_parts(arguments, dimensions, where)
    blocks: PerStage | None = getattr(arguments, BLOCKS[name])
    if blocks is None:
        msg = f"{where}: the network {name} has no number of blocks per stage"
        raise ExchangeError(msg)
    stages = arguments.n_stages
    return NETWORKS[name](
        dimensions=dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        features_per_stage=_repeat(arguments.features_per_stage, stages),
        kernel_sizes=_repeat_per_axis(arguments.kernel_sizes, stages, dimensions),
        strides=_repeat_per_axis(arguments.strides, stages, dimensions),
        blocks_per_stage=_repeat(blocks, stages),
        convolutions_per_decoder_stage=_repeat(arguments.n_conv_per_stage_decoder, stages - 1),
        deep_supervision=stages >= FEWEST_SUPERVISED_STAGES,
    )


def check_family(plan: NetworkPlan) -> UNetPlan:
    """The plan, of a family that nnU-Net has too.

    Raises:
        ExchangeError: It has not.
    """
    if isinstance(plan, UNetPlan) and type(plan) in NETWORKS.values():
        return plan
    known = ", ".join(name for name, kind in NETWORK_PLANS.items() if kind in NETWORKS.values())
    msg = f"nnU-Net has no network of the family {plan.family!r}; families that it shares with autoseg: {known}"
    raise ExchangeError(msg)


def describe_network(plan: NetworkPlan) -> NnunetArchitecture:
    """nnU-Net's description of one of our networks.

    Raises:
        ExchangeError: nnU-Net has no such network.
    """
    plan = check_family(plan)
    if len(plan.features_per_stage) < FEWEST_STAGES:
        msg = "nnU-Net's networks have at least two stages, found one; such a model cannot be exported"
        raise ExchangeError(msg)
    name = next(name for name, kind in NETWORKS.items() if type(plan) is kind)
    arguments = ArchitectureArguments.model_validate(
        {
            "n_stages": len(plan.features_per_stage),
            "features_per_stage": plan.features_per_stage,
            "conv_op": f"torch.nn.modules.conv.Conv{plan.dimensions}d",
            "kernel_sizes": plan.kernel_sizes,
            "strides": plan.strides,
            BLOCKS[name]: plan.blocks_per_stage,
            "n_conv_per_stage_decoder": plan.convolutions_per_decoder_stage,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{plan.dimensions}d",
            "norm_op_kwargs": {"eps": NORM_EPSILON, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    )
    return NnunetArchitecture(network_class_name=f"{CLASS_PREFIX}{name}", arch_kwargs=arguments)


def _modernize(configuration: NnunetConfiguration, where: str) -> NnunetArchitecture:
    """Describes the network of a plan before release 2.4 as later releases do; all else was fixed then."""
    missing = [field for field in OLD_FIELDS if getattr(configuration, field) is None]
    if missing:
        msg = f"{where} describes no network: neither 'architecture' nor {', '.join(missing)}"
        raise ExchangeError(msg)
    name = configuration.UNet_class_name
    encoder, kernels = configuration.n_conv_per_stage_encoder or (), configuration.conv_kernel_sizes or ()
    base, widest = configuration.UNet_base_num_features or 0, configuration.unet_max_num_features or 0
    dimensions = len(configuration.patch_size)
    arguments = ArchitectureArguments.model_validate(
        {
            "n_stages": len(encoder),
            "features_per_stage": [min(base * 2**stage, widest) for stage in range(len(encoder))],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": kernels,
            "strides": configuration.pool_op_kernel_sizes,
            BLOCKS.get(name or "", "n_conv_per_stage"): encoder,
            "n_conv_per_stage_decoder": configuration.n_conv_per_stage_decoder,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": NORM_EPSILON, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    )
    return NnunetArchitecture(network_class_name=f"{CLASS_PREFIX}{name}", arch_kwargs=arguments)


def _check_parts(arguments: ArchitectureArguments, dimensions: int, where: str) -> None:
    """Our networks have one kind of convolution, normalization and activation."""
    norm = arguments.norm_op_kwargs or {}
    activation = arguments.nonlin_kwargs or {}
    expectations = {
        "conv_op": (_last(arguments.conv_op), f"Conv{dimensions}d"),
        "conv_bias": (arguments.conv_bias, True),
        "norm_op": (_last(arguments.norm_op), f"InstanceNorm{dimensions}d"),
        "norm_op_kwargs.eps": (norm.get("eps", NORM_EPSILON), NORM_EPSILON),
        "norm_op_kwargs.affine": (norm.get("affine", False), True),
        "norm_op_kwargs.track_running_stats": (norm.get("track_running_stats", False), False),
        "nonlin": (_last(arguments.nonlin), "LeakyReLU"),
        "nonlin_kwargs.negative_slope": (activation.get("negative_slope", SLOPE), SLOPE),
    }
    problems = [
        f"{key} is {found!r}, expected {wanted!r}" for key, (found, wanted) in expectations.items() if found != wanted
    ]
    # Options that are switched off change nothing; dropout_op, for example, is null in every plan.
    problems += [f"{key} is {value!r:.80}" for key, value in (arguments.model_extra or {}).items() if value]
    if problems:
        msg = f"{where} has a network that autoseg cannot build: {'; '.join(problems)}"
        raise ExchangeError(msg)


def _last(path: str | None) -> str | None:
    return None if path is None else path.rpartition(".")[2]


def _repeat(values: PerStage, count: int) -> tuple[int, ...]:
    return (values,) * count if isinstance(values, int) else tuple(values)


def _repeat_per_axis(values: PerStageAndAxis, stages: int, dimensions: int) -> tuple[tuple[int, ...], ...]:
    entries: Sequence[int | tuple[int, ...]] = (values,) * stages if isinstance(values, int) else values
    return tuple(_repeat(entry, dimensions) for entry in entries)
