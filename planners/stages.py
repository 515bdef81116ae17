"""Width and depth of the stages of a network."""

from typing import Final

from autoseg.plan import Decision
from planners.profile import Profile
from planners.reasons import format_amount

BASE_FEATURES: Final = 32  # nnU-Net paper; doubled with every stage ...
MOST_FEATURES: Final = {2: 512, 3: 320}  # ... up to this number (nnU-Net paper), per dimensions of the network


def compute_features(stage_count: int, *, dimensions: int) -> tuple[int, ...]:
    """Feature channels of every stage: 32, 64, 128, ... up to the limit of 2D or 3D networks."""
    # The exponent is limited so that absurdly deep networks do not build absurdly long integers.
    return tuple(min(MOST_FEATURES[dimensions], BASE_FEATURES * 2 ** min(stage, 10)) for stage in range(stage_count))


def compute_encoder_blocks(stage_count: int, profile: Profile) -> tuple[int, ...]:
    """Convolutions or residual blocks of every encoder stage; the profile's last number repeats."""
    last = len(profile.encoder_blocks) - 1
    return tuple(profile.encoder_blocks[min(stage, last)] for stage in range(stage_count))


def choose_features(stage_count: int, *, dimensions: int) -> Decision[tuple[int, ...]]:
    """Doubles the features with every halving of the resolution, within a limit."""
    features = compute_features(stage_count, dimensions=dimensions)
    most = MOST_FEATURES[dimensions]
    because = f"{BASE_FEATURES} features, doubled in each of the {stage_count} stages up to {most} in {dimensions}D"
    return Decision(features, because)


def choose_depth(stage_count: int, profile: Profile) -> Decision[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Blocks of every encoder stage and convolutions of every decoder stage (one fewer)."""
    encoder = compute_encoder_blocks(stage_count, profile)
    decoder = (profile.decoder_convolutions,) * (stage_count - 1)
    first = ", ".join(str(blocks) for blocks in encoder)
    kind = "convolutions" if profile.architecture == "plain_unet" else "residual blocks"
    because = (
        f"the architecture {profile.architecture} has {first} {kind} in its {stage_count} encoder stages and "
        f"{format_amount(profile.decoder_convolutions, 'convolution')} in each decoder stage"
    )
    return Decision((encoder, decoder), because)
