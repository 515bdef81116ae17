"""Small network plans: one of every family, one U-shaped network with every part, and combinations of parts.

A new family, or a new part of U-shaped networks, is one more row here.
"""

from random import Random
from typing import Any, Final, get_args

from autoseg.plan import NETWORK_PLANS, NetworkPlan
from autoseg.plan.network.layers import Activation, Downsampling, Normalization, Upsampling

# Three stages, of which the last are anisotropic: kernels and strides of one along an axis.
SPACE: Final[dict[int, dict[str, Any]]] = {
    2: {"kernel_sizes": ((3, 3), (3, 3), (3, 1)), "strides": ((1, 1), (2, 2), (2, 1))},
    3: {"kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 1))},
}
TOKENS: Final[dict[int, dict[str, Any]]] = {
    2: {"token_steps": ((2, 2), (2, 1)), "position_grid": (2, 3)},
    3: {"token_steps": ((1, 2, 2), (2, 2, 2)), "position_grid": (3, 4, 4)},
}
"""Tokens of plain transformers; their grid is that of the test images in 3D alone."""
COMMON: Final[dict[str, Any]] = {"input_channels": 2, "output_channels": 3, "features_per_stage": (4, 8, 8)}
STEMS: Final[dict[int, dict[str, Any]]] = {
    2: {"stem_kernel_sizes": ((7, 7), (3, 1)), "stem_strides": ((2, 2), (2, 1))},
    3: {"stem_kernel_sizes": ((1, 7, 7), (1, 3, 3)), "stem_strides": ((1, 2, 2), (1, 2, 2))},
}
"""Of networks that have a stem."""
U_SHAPED: Final[dict[str, Any]] = {
    **COMMON,
    "family": "u_shaped",
    "decoder_features_per_stage": (8, 4),
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
    "padding": "same",
    "dropout": 0.0,
    "supervision": "own_resolution",
    "output_weights": (1.0, 0.5),
}
"""The default of every part."""
ENCODED: Final[dict[str, Any]] = {
    name: U_SHAPED[name] for name in ("blocks_per_stage", "block", "layers", "downsampling")
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
    "nested_u": {
        **COMMON,
        **ENCODED,
        "upsampling": "transposed",
        "depth": 2,
        "output_weights": (1.0, 1.0),
    },
    "dilated": {
        **COMMON,
        "stem_features": 4,
        "layers": {"normalization": "batch", "activation": "relu"},
        "blocks_per_stage": (1, 2, 2),
        "block": "bottleneck",
        "output_stride": 4,
        "head": {
            "name": "aspp_low_level",
            "context": {"name": "aspp", "channels": 6, "dilations": (1, 2)},
            "low_level_channels": 2,
            "channels": 6,
        },
        "output_weights": (1.0,),
    },
    "parallel": {
        **COMMON,
        "features_per_stage": (4, 6, 8),
        "stem_features": 4,
        "layers": {"normalization": "batch", "activation": "relu"},
        "stem_blocks": 1,
        "modules_per_stage": (1, 1),
        "blocks_per_branch": 1,
        "head": "v2",
    },
    "fcn": {**COMMON, **ENCODED, "fused_stages": 1, "upsampling": "transposed", "dropout": 0.0},
    "additive_u": {
        **COMMON,
        "blocks_per_stage": (1, 2, 1),
        "decoder_blocks_per_stage": (2, 1),
        "unit": {"name": "pre_activation", "upsampling": "linear"},
        "layers": {"normalization": "instance", "activation": "relu"},
        "output_weights": (1.0, 0.5),
    },
    "unext": {**COMMON, "token_stages": 1, "layers": {"normalization": "batch", "activation": "relu"}},
    "plain_transformer": {
        "input_channels": 2,
        "output_channels": 3,
        "features": 28,
        "blocks": 2,
        "heads": 2,
        "hidden_features": 20,
        "layer_scale": 0.1,
        "drop_path": 0.2,
        "decoder_features": (8,),
    },
    "encoder_u": {
        **COMMON,
        "encoder": {"name": "vgg"},
        "blocks_per_stage": (1, 2, 0),
        "decoder": "convolution",
        "decoder_features_per_stage": (4, 3),
        "contexts": (),
        "layers": {"normalization": "instance", "activation": "relu"},
    },
    "hybrid_2d_3d": {"input_channels": 2, "output_channels": 3},
    "label_autoencoder": {
        **COMMON,
        "blocks_per_stage": 1,
        "latent_channels": 2,
        "latents": "bounded",
        "latent_noise": 0.1,
        "has_attention": False,
    },
    "latent_diffusion": {"input_channels": 2, "output_channels": 3, "estimate": "latent"},
    "diffusion_unet": {
        "input_channels": 2,
        "output_channels": 3,
        "estimate": "bits",
        "sampler_steps": 1,
        "samples": 1,
    },
    "point_rend": {
        "input_channels": 2,
        "output_channels": 3,
        "coarse_level": 1,
        "hidden_features": 6,
        "hidden_layers": 2,
        "training_fraction": 0.25,
        "prediction_fraction": 0.25,
        "output_weights": (1.0, 0.5),
    },
    "detector": {
        **COMMON,
        "blocks_per_stage": (0, 1, 1),
        "neck_blocks": 1,
        "levels": 2,
        "distance_bins": 4,
        "least_score": 0.3,
        "largest_overlap": 0.6,
    },
    "mask_rcnn": {
        **COMMON,
        "encoder": {"name": "resnet", "block": "basic"},
        "blocks_per_stage": (0, 0, 1),
        "layers": {"normalization": "instance", "activation": "relu"},
        "levels": 2,
        "pyramid_features": 4,
        "hidden_features": 6,
        "box_bins": 3,
        "mask_bins": 4,
        "samples_per_bin": 1,
        "mask_layers": 1,
        "proposals": 6,
        "objects": 4,
        "training_regions": 6,
        "positive_regions": 3,
        "proposal_overlap": 0.7,
        "largest_overlap": 0.5,
        "least_score": 0.5,
        "border_fraction": 0.25,
    },
}
BLOCKS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"first_width": "half"},
    "residual": {},
    "residual_stage": {},
    "recurrent_residual": {"recurrences": 1},
    "multires": {"width": 1.67},
    "dense": {"growth": 0.5},
    "inception": {},
    "separable": {},
    "rep": {},
    "csp_rep": {},
    "rsu": {"reduction": 2, "dilated_reduction": 2},
}
SKIPS: Final[dict[str, dict[str, Any]]] = {
    "concatenation": {},
    "addition": {},
    "attention_gate": {"signal": "below", "gates": 2, "reduction": 1},
    "residual_path": {},
}
CONTEXTS: Final[dict[str, dict[str, Any]]] = {
    "spp": {"grids": (1, 2)},
    "aspp": {"channels": 6, "dilations": (1, 2)},
    "dac": {},
    "rmp": {"kernels": (2, 3)},
    "non_local": {"heads": 2, "tokens_limit": 8},
    "dual_attention": {"reduction": 2, "tokens_limit": 8},
    "graph_unet": {"kept_fractions": (0.8, 0.5)},
}
ATTENTIONS: Final[dict[str, dict[str, Any]]] = {
    "se": {"reduction": 2},
    "cbam": {"reduction": 2, "kernel": 7},
    "scse": {"reduction": 2},
    "dual_excitation": {"reduction": 2},
}
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
    "fine attention gate": {"skip": {"name": "attention_gate", "signal": "upsampled", "gates": 1, "reduction": 2}},
    "wide strides": {"downsampling": "strided_wide", "decoder_features_per_stage": (16, 8)},
    "full resolution": {"supervision": "full_resolution", "output_weights": (1.0, 1.0)},
    "fused outputs": {
        "supervision": "fused",
        "output_weights": (1.0,) * 4,
        "layers": {"normalization": "batch", "activation": "gelu"},
    },
    "shape stream": {"shape_stream": {"features_per_gate": (4, 2), "edge_weight": 0.5}},
    "shape stream of fused outputs": {
        "supervision": "fused",
        "output_weights": (1.0,) * 4,
        "shape_stream": {"features_per_gate": (3,), "edge_weight": 2.0},
        "block": {"name": "dense", "growth": 0.5},
        "layers": {"normalization": "batch", "activation": "relu"},
    },
    "upsampling attention": {"upsampling_attention": {"name": "non_local", "heads": 2, "tokens_limit": 8}},
    "valid convolutions": {"padding": "valid", "output_weights": (1.0,), "dropout": 0.5},
}
"""U-shaped networks by what else is special about them."""
MEDNEXT: Final = {"name": "mednext", "expansion_ratios": (2, 3, 1), "response_normalization": False}
VARIANTS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    (
        "dilated",
        "with dual attention",
        {
            "block": "basic",
            "output_stride": 2,
            "head": {
                "name": "dual_attention",
                "context": {"name": "dual_attention", "reduction": 2, "tokens_limit": 8},
                "channels": 4,
            },
            "output_weights": (1.0, 1.0, 1.0),
        },
    ),
    ("parallel", "of the highest resolution", {"head": "v1", "modules_per_stage": (1, 2)}),
    ("fcn", "without fusion", {"fused_stages": 0, "upsampling": "linear", "dropout": 0.5}),
    ("additive_u", "mednext", {"unit": MEDNEXT, "layers": {"normalization": "instance", "activation": "gelu"}}),
    ("additive_u", "mednext with response normalization", {"unit": {**MEDNEXT, "response_normalization": True}}),
    (
        "additive_u",
        "transposed",
        {
            "unit": {"name": "pre_activation", "upsampling": "transposed"},
            "layers": {"normalization": "group", "activation": "leaky_relu"},
        },
    ),
    ("unext", "without convolutions", {"token_stages": 2}),
    (
        "encoder_u",
        "with a ResNet",
        {
            "encoder": {"name": "resnet", "block": "basic"},
            "blocks_per_stage": (0, 0, 2),
            "decoder": "bottleneck",
            "decoder_features_per_stage": (8, 4),
            "contexts": ({"name": "rmp", "kernels": (2,)},),
            "layers": {"normalization": "batch", "activation": "relu"},
        },
    ),
    (
        "encoder_u",
        "with a DenseNet",
        {
            "encoder": {"name": "densenet", "growth": 2},
            "features_per_stage": (4, 4, 8),
            "blocks_per_stage": (0, 0, 2),
            "layers": {"normalization": "none", "activation": "relu"},
        },
    ),
    ("detector", "of regions", {"levels": 1, "distance_bins": 1, "probabilities": "sigmoid"}),
    (
        "point_rend",
        "of the lowest level for regions",
        {"skeleton": "u_shaped", "coarse_level": 2, "output_weights": (1.0,), "probabilities": "sigmoid"},
    ),
    (
        "label_autoencoder",
        "of Stable Diffusion",
        {"latents": "gaussian", "latent_noise": 0.0, "has_attention": True, "blocks_per_stage": 2},
    ),
    ("diffusion_unet", "of noise with guidance", {"estimate": "noise", "sampler_steps": 2, "guidance_scale": 2.0}),
)
"""Networks of other families by what else is special about them: the family, words, fields."""
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
    **{f"{family} {variant}": {"family": family, **FAMILIES[family], **fields} for family, variant, fields in VARIANTS},
}


def combine(
    block: str, skip: str, contexts: tuple[str, ...], attention: str | None, **fields: Any
) -> tuple[str, dict[str, Any]]:
    """A U-shaped network of these parts, and its name."""
    parts = {"name": block, **BLOCKS[block]}
    combined = {
        **U_SHAPED,
        "block": parts,
        "decoder_block": parts,
        "skip": {"name": skip, **SKIPS[skip]},
        "contexts": tuple({"name": context, **CONTEXTS[context]} for context in contexts),
        "attention": attention and {"name": attention, **ATTENTIONS[attention]},
        **fields,
    }
    return " ".join((block, skip, *contexts, *([attention] if attention else []))), combined


def draw_combination(random: Random) -> tuple[str, dict[str, Any]]:
    """A U-shaped network of random parts, with two contexts, one or none."""
    return combine(
        random.choice(list(BLOCKS)),
        random.choice(list(SKIPS)),
        tuple(random.sample(list(CONTEXTS), random.randint(0, 2))),
        random.choice([None, *ATTENTIONS]),
        layers={
            "normalization": random.choice(get_args(Normalization)),
            "activation": random.choice(get_args(Activation)),
        },
        downsampling=random.choice(get_args(Downsampling)),
        upsampling=random.choice(get_args(Upsampling)),
    )


_SOURCE: Final = Random(14)
COMBINATIONS: Final[dict[str, dict[str, Any]]] = dict(
    (
        combine("csp_rep", "attention_gate", ("aspp",), "se"),
        combine("inception", "residual_path", ("aspp", "non_local"), "cbam"),
        *(draw_combination(_SOURCE) for _ in range(12)),
    )
)
"""U-shaped networks whose parts no paper combines, by the names of their parts; the laws that cost little hold."""


def build_hybrid_fields(dimensions: int) -> dict[str, Any]:
    """Two branches of two stages each."""
    cut = {"features_per_stage": (4, 8), "blocks_per_stage": (1, 2), "decoder_features_per_stage": (3,)}
    slices, volumes = (
        {**COMMON, **FAMILIES["encoder_u"], **cut, "dimensions": axes}
        | {name: extents[:2] for name, extents in SPACE[axes].items()}
        for axes in (2, 3)
    )
    return {
        "family": "hybrid_2d_3d",
        "dimensions": dimensions,
        **FAMILIES["hybrid_2d_3d"],
        "slices": slices,
        "volumes": volumes,
    }


def build_denoiser_fields(dimensions: int) -> dict[str, Any]:
    """A denoiser of two stages, on the grid of the image."""
    space = {name: extents[:2] for name, extents in SPACE[dimensions].items()}
    return {
        "denoiser": {
            **space,
            "dimensions": dimensions,
            "input_channels": 5,
            "output_channels": 3,
            "features_per_stage": (4, 8),
            "form": "ddpm",
            "heads": 2,
            "blocks_per_stage": 1,
            "attention_stages": (1,),
            "dropout": 0.0,
        },
        "diffusion": {"schedule": "linear", "steps": 10, "first_variance": 0.01, "last_variance": 0.2},
        "noise_grid": (3, 4, 4)[-dimensions:],
    }


def build_diffusion_fields(dimensions: int) -> dict[str, Any]:
    """An autoencoder of two stages, and a denoiser of two."""
    space, common = SPACE[dimensions], {"dimensions": dimensions, "features_per_stage": (4, 8)}
    outer = {name: extents[:2] for name, extents in space.items()}
    strides = ((1,) * dimensions, space["strides"][2])
    return {
        "autoencoder": {
            **FAMILIES["label_autoencoder"],
            **common,
            **outer,
            "input_channels": 3,
        },
        "vision_features_per_stage": (4, 6),
        "denoiser": {
            **common,
            "input_channels": 4,
            "output_channels": 2,
            "kernel_sizes": space["kernel_sizes"][1:],
            "strides": strides,
            "blocks_per_stage": 1,
            "attention_stages": (1,),
            "dropout": 0.0,
        },
        "diffusion": {"schedule": "scaled_linear", "steps": 10, "first_variance": 0.01, "last_variance": 0.2},
        "noise_grid": (3, 2, 2)[-dimensions:],
    }


def build_skeleton_fields(small: dict[str, Any], dimensions: int) -> dict[str, Any]:
    """The network below a head, with the space of the others."""
    family = small.get("skeleton", "plain_unet")
    return {"family": family, "dimensions": dimensions, **SPACE[dimensions], **FAMILIES[family]}


def build_small_network_plan(name: str, dimensions: int, **changes: Any) -> NetworkPlan:
    """Builds one of `SMALL_NETWORKS` or `COMBINATIONS`; keyword arguments replace its fields."""
    small = (SMALL_NETWORKS | COMBINATIONS)[name]
    space = TOKENS if small["family"] == "plain_transformer" else SPACE
    fields = {"dimensions": dimensions, **space[dimensions], **small}
    if fields["family"] == "hybrid_2d_3d":
        fields = build_hybrid_fields(dimensions)
    if fields["family"] == "latent_diffusion":
        fields = {"dimensions": dimensions, **small, **build_diffusion_fields(dimensions)}
    if fields["family"] == "diffusion_unet":
        fields = {"dimensions": dimensions, **small, **build_denoiser_fields(dimensions)}
    if fields["family"] == "point_rend":
        fields = {"dimensions": dimensions, **small, "skeleton": build_skeleton_fields(small, dimensions) | changes}
        changes = {}
    if "stem_features" in fields:
        fields |= STEMS[dimensions]
    fields |= changes
    return NETWORK_PLANS[str(fields["family"])].model_validate(fields)
