"""Small network plans: one of every family, and one U-shaped network with every part.

A new family, or a new part of U-shaped networks, is one more row here.
"""

from typing import Any, Final

from autoseg.plan import NETWORK_PLANS, NetworkPlan

# Three stages, of which the last are anisotropic: kernels and strides of one along an axis.
SPACE: Final[dict[int, dict[str, Any]]] = {
    2: {"kernel_sizes": ((3, 3), (3, 3), (3, 1)), "strides": ((1, 1), (2, 2), (2, 1))},
    3: {"kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 1))},
}
COMMON: Final[dict[str, Any]] = {"input_channels": 2, "output_channels": 3, "features_per_stage": (4, 8, 8)}
U_SHAPED: Final[dict[str, Any]] = {
    **COMMON,
    "family": "u_shaped",
    "blocks_per_stage": (2, 2, 2),
    "decoder_blocks_per_stage": (2, 1),
    "block": {"name": "plain"},
    "decoder_block": {"name": "plain"},
    "skip": {"name": "concatenation"},
    "contexts": (),
    "attention": None,
    "layers": {"normalization": "instance", "activation": "leaky_relu"},
    "downsampling": "max_pool",
    "upsampling": "transposed",
    "dropout": 0.0,
    "supervision": "own_resolution",
    "output_weights": (1.0, 0.5),
}
"""The default of every part."""
RESIDUAL_U: Final[dict[str, Any]] = {
    **COMMON,
    "family": "residual_u",
    "blocks_per_stage": (1, 2, 1),
    "decoder_blocks_per_stage": (2, 1),
    "unit": {"name": "pre_activation", "upsampling": "linear"},
    "layers": {"normalization": "instance", "activation": "relu"},
    "output_weights": (1.0, 0.5),
}
FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "plain_unet": {
        **COMMON,
        "blocks_per_stage": (2, 2, 2),
        "convolutions_per_decoder_stage": (2, 2),
        "deep_supervision": True,
    },
    "residual_encoder_unet": {
        **COMMON,
        "blocks_per_stage": (1, 3, 2),
        "convolutions_per_decoder_stage": (1, 1),
        "deep_supervision": True,
    },
    "u_shaped": U_SHAPED,
    "residual_u": RESIDUAL_U,
}
BLOCKS: Final[dict[str, dict[str, Any]]] = {"plain": {"first_width": "half"}, "residual": {}}
SKIPS: Final[dict[str, dict[str, Any]]] = {"concatenation": {}, "addition": {}}
CONTEXTS: Final[dict[str, dict[str, Any]]] = {"spp": {"grids": (1, 2)}}
ATTENTIONS: Final[dict[str, dict[str, Any]]] = {"se": {"reduction": 2}}
FIELDS: Final[dict[str, dict[str, Any]]] = {
    "batch normalization": {"layers": {"normalization": "batch", "activation": "relu"}, "downsampling": "strided"},
    "group normalization": {"layers": {"normalization": "group", "activation": "silu"}, "upsampling": "linear"},
    "wide upsampling": {"upsampling": "transposed_wide"},
    "layer normalization": {
        "layers": {"normalization": "layer", "activation": "prelu"},
        "upsampling": "nearest_convolution",
        "downsampling": "average_pool",
    },
    "no normalization": {
        "layers": {"normalization": "none", "activation": "elu"},
        "upsampling": "linear_convolution",
        "dropout": 0.5,
    },
    "full resolution": {"supervision": "full_resolution", "output_weights": (1.0, 1.0)},
    "fused outputs": {
        "supervision": "fused",
        "output_weights": (1.0,) * 4,
        "layers": {"normalization": "batch", "activation": "gelu"},
    },
}
"""U-shaped networks by what else is special about them."""
MEDNEXT: Final = {"name": "mednext", "expansion_ratios": (2, 3, 1), "response_normalization": False}
RESIDUAL_UNITS: Final[dict[str, dict[str, Any]]] = {
    "mednext": {"unit": MEDNEXT, "layers": {"normalization": "instance", "activation": "gelu"}},
    "pre_activation": {
        "unit": {"name": "pre_activation", "upsampling": "transposed"},
        "layers": {"normalization": "group", "activation": "leaky_relu"},
    },
    "mednext with response normalization": {"unit": {**MEDNEXT, "response_normalization": True}},
}
SMALL_NETWORKS: Final[dict[str, dict[str, Any]]] = {
    **{family: {"family": family, **fields} for family, fields in FAMILIES.items()},
    **{
        f"block {name}": {**U_SHAPED, "block": {"name": name, **fields}, "decoder_block": {"name": name, **fields}}
        for name, fields in BLOCKS.items()
    },
    **{f"skip {name}": {**U_SHAPED, "skip": {"name": name, **fields}} for name, fields in SKIPS.items()},
    **{f"context {name}": {**U_SHAPED, "contexts": ({"name": name, **fields},)} for name, fields in CONTEXTS.items()},
    **{f"attention {name}": {**U_SHAPED, "attention": {"name": name, **fields}} for name, fields in ATTENTIONS.items()},
    **{name: {**U_SHAPED, **fields} for name, fields in FIELDS.items()},
    **{f"unit {name}": {**RESIDUAL_U, **fields} for name, fields in RESIDUAL_UNITS.items()},
}


def build_small_network_plan(name: str, dimensions: int, **changes: Any) -> NetworkPlan:
    """Builds one of `SMALL_NETWORKS`; keyword arguments replace its fields."""
    fields = {"dimensions": dimensions, **SPACE[dimensions], **SMALL_NETWORKS[name], **changes}
    return NETWORK_PLANS[str(fields["family"])].model_validate(fields)
