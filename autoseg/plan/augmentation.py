"""Random transforms of training patches: one part a transform, listed in the order in which they are applied.

A probability is that of a patch unless its name says otherwise; a range is a lower and an upper limit.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from autoseg.document import OneOf
from autoseg.labels import LabelScheme
from autoseg.plan.elastic import ELASTIC_PLANS, ElasticPlan
from autoseg.plan.mirroring import MirrorPairsPlan as MirrorPairsPlan
from autoseg.plan.mirroring import MirrorPlan as MirrorPlan
from autoseg.plan.preprocessing import PICTURE_SCHEME, ChannelPlan, are_colours, are_pictures
from autoseg.plan.transform import TransformPlan as TransformPlan
from autoseg.plan.values import LARGEST_RADIUS_VOXELS, Fraction, FractionRange, NonNegativeRange, PositiveRange

LARGEST_SCALING: Final = 8.0
LARGEST_SHEAR_DEGREES: Final = 60.0
MOST_CLICKS: Final = 100


def _check_scaling(limits: tuple[float, float]) -> tuple[float, float]:
    """Checks the factors of scaling: for each patch, so many times its extents are read."""
    if limits[0] < 1 / LARGEST_SCALING or limits[1] > LARGEST_SCALING:
        msg = f"must lie between {1 / LARGEST_SCALING:g} and {LARGEST_SCALING:g} (got {limits[0]:g}, {limits[1]:g})"
        raise ValueError(msg)
    return limits


def _check_radius(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[1] > LARGEST_RADIUS_VOXELS:
        msg = f"must not exceed {LARGEST_RADIUS_VOXELS:g} voxels (got {limits[0]:g}, {limits[1]:g})"
        raise ValueError(msg)
    return limits


class WarpPlan(TransformPlan):
    """Change of geometry about the centre, then cropping to the patch, in one interpolation. It stands first.

    Attributes:
        rotation_limit_degrees: Bound of the rotation; each angle is uniform in [-limit, limit].
        in_plane_only: Plan axis 0 of a 3D patch is left alone ("dummy 2D").
        scaling_range: One factor for all axes; above 1 objects become smaller.
    """

    rotation_probability: Fraction
    rotation_limit_degrees: Annotated[float, Field(ge=0, le=180)]
    in_plane_only: bool
    scaling_probability: Fraction
    scaling_range: Annotated[PositiveRange, AfterValidator(_check_scaling)]

    @property
    def may_happen(self) -> bool:
        """Whether any patch is changed; else the patch itself is all that must be cut out."""
        return self.rotation_probability > 0 or self.scaling_probability > 0


class SpatialPlan(WarpPlan):
    """Rotation and scaling."""

    name: Literal["spatial"] = "spatial"


class DeformationPlan(WarpPlan):
    """Rotation, scaling, shearing and elastic deformation.

    Attributes:
        shear_limit_degrees: Bound of the angle by which one axis, drawn at random, leans towards another.
        elastic: None: no elastic deformation.
    """

    name: Literal["deformation"] = "deformation"
    shear_probability: Fraction
    shear_limit_degrees: Annotated[float, Field(ge=0, le=LARGEST_SHEAR_DEGREES)]
    elastic: Annotated[ElasticPlan, OneOf(ELASTIC_PLANS, "field")] | None

    @property
    def elastic_probability(self) -> float:
        """Probability of an elastic deformation that moves anything."""
        return 0.0 if self.elastic is None or self.elastic.std_voxels == 0 else self.elastic.probability

    @property
    def may_happen(self) -> bool:
        """Whether any patch is changed."""
        return super().may_happen or self.shear_probability > 0 or self.elastic_probability > 0


class NoisePlan(TransformPlan):
    """Additive Gaussian noise.

    Attributes:
        std_range: Range of the standard deviation of the noise.
    """

    name: Literal["noise"] = "noise"
    probability: Fraction
    std_range: NonNegativeRange


class BlurPlan(TransformPlan):
    """Gaussian blur.

    Attributes:
        sigma_range_voxels: Drawn per channel and axis.
    """

    name: Literal["blur"] = "blur"
    probability: Fraction
    channel_probability: Fraction
    sigma_range_voxels: Annotated[NonNegativeRange, AfterValidator(_check_radius)]


class BrightnessPlan(TransformPlan):
    """Multiplication of each channel.

    Attributes:
        factor_range: Factors below 1 and above 1 are equally likely.
    """

    name: Literal["brightness"] = "brightness"
    probability: Fraction
    factor_range: PositiveRange


class ContrastPlan(TransformPlan):
    """Scaling of each channel about its mean, within its range.

    Attributes:
        factor_range: Factors below 1 and above 1 are equally likely.
    """

    name: Literal["contrast"] = "contrast"
    probability: Fraction
    factor_range: PositiveRange


class LowResolutionPlan(TransformPlan):
    """Simulated low resolution.

    Attributes:
        zoom_range: 0.5 halves the resolution of all axes.
        in_plane_only: Plan axis 0 of a 3D patch is left alone.
    """

    name: Literal["low_resolution"] = "low_resolution"
    probability: Fraction
    channel_probability: Fraction
    zoom_range: FractionRange
    in_plane_only: bool


class GammaPlan(TransformPlan):
    """Gamma correction: intensities scaled to 0 to 1 are raised to a power; mean and standard deviation are restored.

    Attributes:
        inverted: The negative image is changed.
        exponent_range: Exponents below 1 and above 1 are equally likely.
    """

    name: Literal["gamma"] = "gamma"
    probability: Fraction
    inverted: bool
    exponent_range: PositiveRange


class ColourPlan(TransformPlan):
    """Change of pictures whose channels are red, green and blue."""

    probability: Fraction

    def find_channel_problem(self, channels: Sequence[ChannelPlan]) -> str | None:
        """Reports channels other than these three, by their names or by a normalization that only they have."""
        if are_colours(channels):
            return None
        return (
            f"changes colours, so the channels must be red, green and blue in this order, named R, G and B or "
            f"{PICTURE_SCHEME} each (got {', '.join(channel.name for channel in channels)}); remove it"
        )


class SaturationPlan(ColourPlan):
    """Stronger or weaker colours.

    Attributes:
        factor_range: Factor on the distance from grey; factors below 1 and above 1 are equally likely.
    """

    name: Literal["saturation"] = "saturation"
    factor_range: PositiveRange


class HuePlan(ColourPlan):
    """Other colours, equally strong and bright.

    Attributes:
        limit_degrees: All colours are turned about grey by an angle that is uniform in [-limit, limit].
    """

    name: Literal["hue"] = "hue"
    limit_degrees: Annotated[float, Field(ge=0, le=180)]


class StainPlan(ColourPlan):
    """Amounts of haematoxylin, eosin and DAB in histology (Tellez et al. 2018, doi:10.1109/TMI.2018.2820199).

    Attributes:
        factor_limit: The amount of each stain is multiplied by a number that is uniform in [1 - limit, 1 + limit].
        shift_limit: It is then shifted by a number, in optical density (natural logarithm), in [-limit, limit].
    """

    name: Literal["stain"] = "stain"
    factor_limit: Fraction
    shift_limit: Fraction

    def find_channel_problem(self, channels: Sequence[ChannelPlan]) -> str | None:
        """Reports channels whose intensities are not those of a picture, from which stains could be told."""
        if are_pictures(channels):
            return None
        found = ", ".join(f"{channel.name} ({channel.normalization})" for channel in channels)
        return (
            f"tells stains by intensities from 0 to 1 in red, green and blue, so there must be three channels with the "
            f"normalization {PICTURE_SCHEME} (got {found}); name each of them {PICTURE_SCHEME} in dataset.json and "
            f"plan again, or remove it"
        )


class MaskMorphologyPlan(TransformPlan):
    """Masks of the previous stage of a cascade are dilated, eroded, opened or closed.

    Attributes:
        label_probability: Probability for each label, if masks change.
        radius_range_voxels: Drawn per label; of the ball.
    """

    needs_previous_stage: ClassVar[bool] = True
    lasts: ClassVar[bool] = True

    name: Literal["mask_morphology"] = "mask_morphology"
    probability: Fraction
    label_probability: Fraction
    radius_range_voxels: Annotated[NonNegativeRange, AfterValidator(_check_radius)]


class MaskComponentRemovalPlan(TransformPlan):
    """Masks of the previous stage of a cascade lose a connected component each.

    Attributes:
        label_probability: Probability for each label, if masks lose components.
        limit_fraction: Components of this share of the patch or more stay.
    """

    needs_previous_stage: ClassVar[bool] = True
    lasts: ClassVar[bool] = True

    name: Literal["mask_component_removal"] = "mask_component_removal"
    probability: Fraction
    label_probability: Fraction
    limit_fraction: Fraction


class SimulatedClicksPlan(TransformPlan):
    """Clicks of a user who corrects the previous stage, placed on its errors. It stands last.

    Attributes:
        none_probability: Probability of a patch without clicks.
        most_clicks: Largest number of clicks in a patch; smaller ones are equally likely.
        centre_probability: Probability that a click lies as deep in its error as possible, else anywhere in it.
    """

    needs_previous_stage: ClassVar[bool] = True
    needs_input: ClassVar[str | None] = "clicks"
    lasts: ClassVar[bool] = True

    name: Literal["simulated_clicks"] = "simulated_clicks"
    none_probability: Fraction
    most_clicks: Annotated[int, Field(ge=1, le=MOST_CLICKS)]
    centre_probability: Fraction


TRANSFORM_PLANS: Final[dict[str, type[TransformPlan]]] = {
    "spatial": SpatialPlan,
    "deformation": DeformationPlan,
    "noise": NoisePlan,
    "blur": BlurPlan,
    "brightness": BrightnessPlan,
    "contrast": ContrastPlan,
    "low_resolution": LowResolutionPlan,
    "gamma": GammaPlan,
    "saturation": SaturationPlan,
    "hue": HuePlan,
    "stain": StainPlan,
    "mirror": MirrorPlan,
    "mirror_pairs": MirrorPairsPlan,
    "mask_morphology": MaskMorphologyPlan,
    "mask_component_removal": MaskComponentRemovalPlan,
    "simulated_clicks": SimulatedClicksPlan,
}


def _check_positions(transforms: tuple[TransformPlan, ...]) -> tuple[TransformPlan, ...]:
    names = [transform.name for transform in transforms]
    misplaced = next((transform.name for transform in transforms[1:] if isinstance(transform, WarpPlan)), None)
    if misplaced is not None:
        places = ", ".join(str(place) for place, part in enumerate(transforms) if isinstance(part, WarpPlan))
        msg = (
            f"{misplaced!r} must be the first transform and stand once (found at {places}): "
            f"it crops what is cut out to the patch, and all others change patches"
        )
        raise ValueError(msg)
    if "simulated_clicks" in names[:-1]:
        msg = (
            f"'simulated_clicks' must be the last transform and stand once (found at "
            f"{_list_positions(names, 'simulated_clicks')}): it places clicks on errors as the network will see them"
        )
        raise ValueError(msg)
    for name in ("mirror", "mirror_pairs"):
        if names.count(name) > 1:
            msg = (
                f"{name!r} must stand once (found at {_list_positions(names, name)}): prediction averages over its "
                f"axes; list all of them in one"
            )
            raise ValueError(msg)
    axes = find_mirror_axes(transforms)
    if "mirror_pairs" in names and len(set(axes)) < len(axes):
        msg = f"'mirror' and 'mirror_pairs' must flip different axes (got {', '.join(map(str, axes))})"
        raise ValueError(msg)
    return transforms


def _list_positions(names: list[str], wanted: str) -> str:
    return ", ".join(str(position) for position, name in enumerate(names) if name == wanted)


Transforms = Annotated[
    tuple[Annotated[TransformPlan, OneOf(TRANSFORM_PLANS, "name")], ...], AfterValidator(_check_positions)
]
"""In the order of application. What is listed twice is applied twice, with draws of its own."""


def find_mirror_axes(transforms: tuple[TransformPlan, ...]) -> tuple[int, ...]:
    """Returns the axes over whose mirrored views prediction averages; empty without transforms that flip."""
    axes = next((transform.axes for transform in transforms if isinstance(transform, MirrorPlan)), ())
    pairs = find_mirror_pairs(transforms)
    return axes if pairs is None else (*axes, pairs.axis)


def find_mirror_pairs(transforms: tuple[TransformPlan, ...]) -> MirrorPairsPlan | None:
    """Returns the transform that exchanges labels of left and right; None without one."""
    return next((transform for transform in transforms if isinstance(transform, MirrorPairsPlan)), None)


def find_problems(
    transforms: tuple[TransformPlan, ...], dimensions: int, *, stage_input: str | None, in_plane_only: bool = False
) -> list[str]:
    """Says why transforms are impossible in a configuration, each with its place in the list.

    Args:
        transforms: The transforms of the configuration.
        dimensions: Number of axes of its samples.
        stage_input: Kind of the channels from a previous stage; None without such channels.
        in_plane_only: Whether its samples are slices, which must not be turned into each other.
    """
    problems = []
    for position, transform in enumerate(transforms):
        problem = transform.find_problem(dimensions)
        if transform.needs_input not in (None, stage_input):
            problem = (
                f"needs a previous stage whose input is {transform.needs_input!r} (got {stage_input!r}); remove it"
            )
        if transform.needs_previous_stage and stage_input is None:
            problem = "changes masks of a previous stage, and this configuration has none; remove it"
        if not transform.allows_previous_stage and stage_input is not None:
            problem = "does not exchange the masks of a previous stage, and this configuration has one; remove it"
        if in_plane_only and isinstance(transform, WarpPlan) and not transform.in_plane_only:
            problem = "in_plane_only must be true, as slices are channels of the network (context_slices)"
        if problem is not None:
            problems.append(f"training.transforms.{position} ({transform.name}): {problem}")
    return problems


def find_content_problems(
    transforms: tuple[TransformPlan, ...], channels: Sequence[ChannelPlan], labels: LabelScheme
) -> list[str]:
    """Says why transforms are impossible for images of these channels and labels, each with its place in the list."""
    return [
        f"training.transforms.{position} ({transform.name}): {problem}"
        for position, transform in enumerate(transforms)
        for problem in (transform.find_channel_problem(channels), transform.find_label_problem(labels))
        if problem is not None
    ]
