"""Translates nnU-Net's readers, normalization and resampling in both directions. Unknown ones are refused by name."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_schema import NnunetConfiguration, NnunetPlans, parse_intensities
from autoseg.plan.preprocessing import ChannelPlan, IntensityWindow, NormalizationScheme, ResamplingPlan

NORMALIZATIONS: Final[dict[str, NormalizationScheme]] = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
AS_STORED: Final = None
PICTURE_READER: Final = "NaturalImage2DIO"
READER_ORIENTATIONS: Final[dict[str, str | None]] = {
    "SimpleITKIO": AS_STORED,
    "NibabelIO": AS_STORED,
    PICTURE_READER: AS_STORED,
    "Tiff3DIO": AS_STORED,
    "NibabelIOWithReorient": "RAS",
    "SimpleITKIOWithReorient": "RAS",
}
READERS: Final[dict[str, str]] = {
    ".nii.gz": "SimpleITKIO",
    ".nrrd": "SimpleITKIO",
    ".mha": "SimpleITKIO",
    ".gipl": "SimpleITKIO",
    ".nii": "NibabelIO",
    ".png": PICTURE_READER,
    ".bmp": PICTURE_READER,
    ".tif": "Tiff3DIO",
    ".tiff": "Tiff3DIO",
}
REORIENTING_READERS: Final[dict[str, str]] = {
    ".nii.gz": "NibabelIOWithReorient",
    ".nii": "NibabelIOWithReorient",
    ".nrrd": "SimpleITKIOWithReorient",
    ".mha": "SimpleITKIOWithReorient",
}
SPLINES: Final = "resample_data_or_seg_to_shape"
TORCH: Final = "resample_torch_fornnunet"
USUAL_THRESHOLD: Final = 3.0
# The ratio of the coarsest spacing to the finest is at least 1, and never reaches the upper value.
ALWAYS_SEPARATE: Final = 0.5
NEVER_SEPARATE: Final = 1e12


def find_orientation(plans: NnunetPlans, *, where: str) -> str | None:
    """Returns the orientation to which nnU-Net's reader brings images; None if it keeps their own.

    Raises:
        ExchangeError: The reader is not one of nnU-Net's own.
    """
    reader = plans.image_reader_writer
    if reader not in READER_ORIENTATIONS:
        msg = (
            f"{where} reads images with {reader}, which nnU-Net does not ship, so it is unknown how they were "
            f"orientated; readers that can be imported: {', '.join(READER_ORIENTATIONS)}"
        )
        raise ExchangeError(msg)
    return READER_ORIENTATIONS[reader]


def find_reader(file_ending: str, orientation: str | None, *, dimensions: Sequence[int]) -> str:
    """Returns nnU-Net's reader for a file ending.

    Args:
        file_ending: File ending of the dataset.
        orientation: Orientation of the plan; None if images keep their own.
        dimensions: Dimensions of the networks, which distinguish stacks of pages (3) from pictures (only 2).

    Raises:
        ExchangeError: nnU-Net does not read such files.
    """
    if orientation == "RAS" and file_ending in REORIENTING_READERS:
        return REORIENTING_READERS[file_ending]
    for reason in explain_unreadable_ending(file_ending):
        msg = f"{reason}; such a model cannot be exported"
        raise ExchangeError(msg)
    reader = READERS[file_ending]
    return PICTURE_READER if reader == "Tiff3DIO" and 3 not in dimensions else reader


def explain_unreadable_ending(file_ending: str) -> tuple[str, ...]:
    """Explains why nnU-Net cannot read the images of a dataset; empty if it can."""
    if file_ending in READERS:
        return ()
    return (f"nnU-Net does not read {file_ending} files, only {' '.join(READERS)}",)


def build_channels(
    names: Sequence[str], configuration: NnunetConfiguration, plans: NnunetPlans, *, where: str
) -> tuple[ChannelPlan, ...]:
    """Translates the normalization of every channel.

    Raises:
        ExchangeError: A scheme is unknown, or there is not one per channel.
        DocumentError: The intensities for a CT channel are missing.
    """
    schemes, masks = configuration.normalization_schemes, configuration.use_mask_for_norm
    if not len(names) == len(schemes) == len(masks):
        msg = (
            f"{where}: dataset.json has {len(names)} channels, but normalization_schemes and use_mask_for_norm of the "
            f"plans have {len(schemes)} and {len(masks)} entries; they must be of the same model"
        )
        raise ExchangeError(msg)
    unknown = [scheme for scheme in schemes if scheme not in NORMALIZATIONS]
    if unknown:
        msg = f"{where} normalizes with {', '.join(unknown)}, which autoseg does not have; it has {_list_schemes()}"
        raise ExchangeError(msg)
    return tuple(
        ChannelPlan(
            name=name,
            normalization=NORMALIZATIONS[scheme],
            # The other schemes of nnU-Net ignore the mask.
            inside_nonzero_only=mask and scheme == "ZScoreNormalization",
            window=_build_window(plans, index, where=where) if scheme == "CTNormalization" else None,
        )
        for index, (name, scheme, mask) in enumerate(zip(names, schemes, masks, strict=True))
    )


def find_normalization_name(channel: ChannelPlan) -> str:
    """Returns nnU-Net's name of the normalization of a channel."""
    return next(name for name, scheme in NORMALIZATIONS.items() if scheme == channel.normalization)


def build_resampling(configuration: NnunetConfiguration, *, where: str) -> ResamplingPlan:
    """Translates the resampling.

    Raises:
        ExchangeError: autoseg does not have a function or one of its arguments.
    """
    (image_order, threshold), (label_order, _), (logits_order, logits_threshold) = (
        _parse(getattr(configuration, key), getattr(configuration, f"{key}_kwargs"), where=f"{where}: {key}")
        for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
    )
    if threshold != logits_threshold:
        msg = f"{where} resamples images and probabilities by different rules of anisotropy, which autoseg cannot"
        raise ExchangeError(msg)
    if label_order == 3 or logits_order == 3:
        msg = f"{where} resamples labels or probabilities by cubic splines, which autoseg cannot; it takes order 0 or 1"
        raise ExchangeError(msg)
    return ResamplingPlan(
        image_order=image_order,
        label_order=label_order,
        logits_order=logits_order,
        anisotropy_threshold=threshold,
    )


def describe_resampling(order: int, *, is_seg: bool, threshold: float) -> dict[str, Any]:
    """Returns the arguments of nnU-Net's spline resampling."""
    arguments: dict[str, Any] = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
    if threshold in (ALWAYS_SEPARATE, NEVER_SEPARATE):
        arguments["force_separate_z"] = threshold == ALWAYS_SEPARATE
    elif threshold != USUAL_THRESHOLD:
        arguments["separate_z_anisotropy_threshold"] = threshold
    return arguments


def _parse(function: str, arguments: Mapping[str, Any], *, where: str) -> tuple[Literal[0, 1, 3], float]:
    """Returns the spline order, and the anisotropy above which an axis is resampled separately."""
    if function not in (SPLINES, TORCH):
        msg = f"{where} is {function}, which autoseg does not have; it has {SPLINES} and {TORCH}"
        raise ExchangeError(msg)
    return _parse_order(function, arguments, where), _parse_threshold(arguments, where)


def _parse_order(function: str, arguments: Mapping[str, Any], where: str) -> Literal[0, 1, 3]:
    if function == TORCH:
        _check_arguments(arguments, {"mode": "linear", "aniso_axis_mode": "nearest-exact"}, where)
        return 1
    _check_arguments(arguments, {"order_z": 0}, where)
    order = arguments.get("order", 3)
    if order not in (0, 1, 3):
        msg = f"{where} has the spline order {order!r}, expected 0, 1 or 3"
        raise ExchangeError(msg)
    return 0 if order == 0 else 1 if order == 1 else 3


def _check_arguments(arguments: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    for key, value in expected.items():
        if arguments.get(key, value) != value:
            msg = f"{where} has {key} {arguments[key]!r}, which autoseg cannot; it takes {value!r}"
            raise ExchangeError(msg)


def _parse_threshold(arguments: Mapping[str, Any], where: str) -> float:
    forced = arguments.get("force_separate_z")
    if forced is not None:
        return ALWAYS_SEPARATE if forced else NEVER_SEPARATE
    threshold = arguments.get("separate_z_anisotropy_threshold", USUAL_THRESHOLD)
    if not isinstance(threshold, (int, float)) or threshold <= 0:
        msg = f"{where}: separate_z_anisotropy_threshold must be a positive number, found {threshold!r}"
        raise ExchangeError(msg)
    return float(threshold)


def _build_window(plans: NnunetPlans, channel: int, *, where: str) -> IntensityWindow:
    window = IntensityWindow.from_foreground(parse_intensities(plans, channel, where=where))
    flaw = window.explain_flaw()
    if flaw is not None:
        msg = (
            f"{where}: channel {channel} is normalized by the intensities of the foreground (CTNormalization), but "
            f"{flaw}; such a model cannot tell images apart: train another one with ZScoreNormalization"
        )
        raise ExchangeError(msg)
    return window


def _list_schemes() -> str:
    return ", ".join(NORMALIZATIONS)
