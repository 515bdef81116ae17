"""MedNeXt and MedNeXt-v2."""

from dataclasses import replace
from typing import Final

from planners.architectures.additive_u import AdditiveUProfile
from planners.architectures.architecture import Architecture, PublishedNetwork

_FEATURES: Final = (32, 64, 128, 256, 512)
_SOURCE: Final = "Roy et al. 2023, MICCAI, arXiv:2303.09975"
# Units and expansion ratios of the stages of an encoder; the decoder mirrors them.
_S: Final = AdditiveUProfile(encoder_units=(2,), expansion_ratios=(2,))
_B: Final = replace(_S, expansion_ratios=(2, 3, 4))
_M: Final = replace(_B, encoder_units=(3, 4))
_L: Final = AdditiveUProfile(encoder_units=(3, 4, 8), expansion_ratios=(3, 4, 8))
# The paper on MedNeXt-v2 adds global response normalization to the units of the large network with kernels of 3, and
# doubles its features in the wide one.
_V2: Final = replace(_L, response_normalization=True)
_V2_WIDE: Final = replace(_V2, width_factor=2)


def _build(
    name: str,
    profile: AdditiveUProfile,
    sentence: str,
    *,
    parameter_count: int,
    source: str = _SOURCE,
    year: int = 2023,
) -> Architecture:
    features = tuple(profile.width_factor * count for count in _FEATURES)
    plan = profile.build_published(features, input_channels=1, output_channels=3)
    return Architecture(
        name=name,
        sentence=sentence,
        source=source,
        year=year,
        choose_network=profile,
        published=(PublishedNetwork(plan=plan, parameter_count=parameter_count),),
    )


MEDNEXT_S: Final = _build(
    "mednext_s",
    _S,
    "MedNeXt, small: units of a depthwise convolution, expansion and compression of channels.",
    parameter_count=5_600_000,
)
MEDNEXT_B: Final = _build(
    "mednext_b", _B, "MedNeXt, base: expands more at lower resolutions.", parameter_count=10_500_000
)
MEDNEXT_M: Final = _build(
    "mednext_m", _M, "MedNeXt, medium: twice as many units as the base network.", parameter_count=17_600_000
)
MEDNEXT_L: Final = _build(
    "mednext_l",
    _L,
    "MedNeXt, large: twice as many units as the medium network, twice the expansion.",
    parameter_count=61_800_000,
)
MEDNEXT_S_K5: Final = _build(
    "mednext_s_k5",
    replace(_S, kernel=5),
    "MedNeXt, small, with kernels of 5 voxels.",
    parameter_count=5_980_579,  # counted: published as 5.9 million, which is 5.98 without the last digits
)
MEDNEXT_B_K5: Final = _build(
    "mednext_b_k5",
    replace(_B, kernel=5),
    "MedNeXt, base, with kernels of 5 voxels.",
    parameter_count=11_000_000,
)
MEDNEXT_M_K5: Final = _build(
    "mednext_m_k5",
    replace(_M, kernel=5),
    "MedNeXt, medium, with kernels of 5 voxels.",
    parameter_count=18_300_000,
)
MEDNEXT_L_K5: Final = _build(
    "mednext_l_k5",
    replace(_L, kernel=5),
    "MedNeXt, large, with kernels of 5 voxels.",
    parameter_count=63_000_000,
)
MEDNEXT_V2: Final = _build(
    "mednext_v2",
    _V2,
    "MedNeXt-v2: the large MedNeXt with global response normalization.",
    parameter_count=61_969_507,  # counted: the large MedNeXt, and two numbers per expanded channel
    source="Roy et al. 2025, arXiv:2512.17774",
    year=2025,
)
MEDNEXT_V2_WIDE: Final = _build(
    "mednext_v2_wide",
    _V2_WIDE,
    "MedNeXt-v2, wide: twice the features in every stage.",
    parameter_count=246_536_387,  # counted, likewise
    source=MEDNEXT_V2.source,
    year=MEDNEXT_V2.year,
)
