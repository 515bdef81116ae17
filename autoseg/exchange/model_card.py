"""The model card of a model file: labels, inputs, usage and scores in Markdown."""

from collections.abc import Iterator, Sequence
from typing import Final

from autoseg.errors import describe_folds
from autoseg.evaluation.crossvalidation import ConfigurationScores, Score, Statistic
from autoseg.evaluation.summary import format_metric_name
from autoseg.exchange.model_file import ModelRecord
from autoseg.file_endings import PICTURE_ENDINGS, TIFF_ENDINGS
from autoseg.geometry import DistanceUnit
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.preprocessing import ChannelPlan, NormalizationScheme
from autoseg.postprocessing.rules import Rule

AXES: Final = ("z", "y", "x")
SCORES: Final[tuple[Score, ...]] = ("Dice", "HD95", "NSD")
INTENSITIES: Final[dict[NormalizationScheme, str]] = {
    "ct": "CT in Hounsfield units",
    "zscore": "any scale: every image is brought to mean 0 and standard deviation 1",
    "none": "the scale of the training images: intensities are taken as they are",
    "rescale_to_0_1": "any scale: every image is brought to 0 ... 1",
    "rgb_to_0_1": "0 ... 255",
}
USE: Final = """\
With autoseg {version} or newer; MODEL.zip is this file, IMAGES a folder of images or one image, OUT a new folder:

```sh
autoseg predict MODEL.zip IMAGES OUT
```

```python
import autoseg

autoseg.predict_images("MODEL.zip", "IMAGES", "OUT")
```

For arrays in memory: `model = autoseg.load_model("MODEL.zip")`, then `autoseg.predict_volume(model, array, ...)`.
Every call unpacks the file; `autoseg import MODEL.zip RUN` does so once and for all, then RUN stands for MODEL.zip.
"""


def format_model_card(record: ModelRecord, plan: Plan, rules: Sequence[Rule]) -> str:
    """Returns the text of the model card in Markdown.

    Args:
        record: The record of the model file.
        plan: The plan with all its configurations.
        rules: The postprocessing rules.
    """
    parts = (
        f"# Segmentation model of {record.dataset_name}\n",
        "**Research software, no medical device.** Nobody has approved this model for patient care. How good it is on "
        "images from elsewhere is not known; have its results checked by somebody who can judge them.\n",
        "## What it segments\n",
        _join(_describe_labels(plan)),
        "## What it needs\n",
        _join(_describe_input(plan)),
        "## How to use it\n",
        USE.format(version=record.autoseg_version),
        "## What predicts\n",
        _join(_describe_models(record, plan, rules)),
        "## Scores on held-out cases of the training data\n",
        _join(_describe_scores(record, plan.distance_unit)),
        "## Where it comes from\n",
        _join(_describe_origin(record, plan)),
    )
    return "\n".join(parts)


def _join(lines: Iterator[str]) -> str:
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Escapes text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _describe_labels(plan: Plan) -> Iterator[str]:
    labels = plan.labels
    yield "| class | values in the label map |"
    yield "|---|---|"
    yield "| background | 0 |"
    for name, members in zip(labels.class_names, labels.class_labels, strict=True):
        yield f"| {_escape(name)} | {', '.join(str(labels.file_values[label]) for label in members)} |"
    if labels.region_write_values is not None:
        order = "; ".join(
            f"{value} where {_escape(name)} is found"
            for name, value in zip(labels.class_names, labels.region_write_values, strict=True)
        )
        yield f"\nClasses may lie inside each other. They are written one after the other: {order}."


def _describe_input(plan: Plan) -> Iterator[str]:
    ending = plan.file_ending
    yield f"Images ending in `{ending}`, one file for each channel or one file with all channels, in this order:\n"
    yield "| channel | file | name | intensities |"
    yield "|---|---|---|---|"
    for index, channel in enumerate(plan.channels):
        name, expected = _escape(channel.name), _describe_intensities(channel)
        yield f"| {index} | `CASE_{index:04d}{ending}` | {name} | {expected} |"
    yield ""
    if plan.orientation is None:
        yield "Images are taken as they are stored: they must lie like the training images."
    else:
        yield (
            f"Orientation: any that the header states; images are brought to {plan.orientation}, and label maps lie "
            f"like their images."
        )
    if ending in (*PICTURE_ENDINGS, *TIFF_ENDINGS):
        yield "Scale: what is to be found must be about as large, in pixels, as in the training images."
    else:
        yield "Spacing: the header must state it; images are resampled to the spacing below, and label maps back."
    yield "What a training image showed, an image must show: the same region of the body, and the same preparation."


def _describe_intensities(channel: ChannelPlan) -> str:
    text = INTENSITIES[channel.normalization]
    inside = "; what lies around the body must be 0, as in the training images" if channel.inside_nonzero_only else ""
    return f"{text}{inside}"


def _describe_models(record: ModelRecord, plan: Plan, rules: Sequence[Rule]) -> Iterator[str]:
    unit = "mm" if plan.distance_unit == "mm" else "pixels"
    yield f"| configuration | folds | network | spacing ({unit}) | patch (voxels) |"
    yield "|---|---|---|---|---|"
    for name, shared in record.configurations.items():
        part = plan.configurations[name]
        patch = " x ".join(map(str, part.patch_voxels))
        spacing = _describe_spacing(part, plan.axis_permutation)
        folds = ", ".join(shared.folds)
        yield f"| {name} | {folds} | {part.network.family}, {part.dimensions}D | {spacing} | {patch} |"
    yield ""
    for name in record.configurations:
        part = plan.configurations[name]
        if part.previous_stage is not None:
            refined = "refines what" if part.previous_stage.has_channels else "predicts only in a box around what"
            yield f"{name} {refined} {part.previous_configuration} predicts."
        if part.context_slices:
            yield f"{name} sees {part.context_slices} neighbouring slices on either side of each."
        if part.sees_other_planes:
            yield f"{name} averages what it predicts in slices across {len(part.plane_axes)} axes."
    if record.selected is not None:
        names = " and ".join(record.selected.configurations)
        mean = ", whose probabilities are averaged" if len(record.selected.configurations) > 1 else ""
        yield f"Selected by cross-validation, and used where no other is named: {names}{mean}."
        yield f"Postprocessing: {_escape('; '.join(rule.describe() for rule in rules)) or 'none'}."


def _describe_spacing(part: ConfigurationPlan, permutation: Sequence[int]) -> str:
    """Describes the spacing by array axes; a 2D configuration does not resample the first axis of the plan."""
    axes = permutation[-part.resampled_axis_count :]
    values = dict(zip(axes, part.spacing_mm, strict=True))
    return ", ".join(f"{AXES[axis]} {values[axis]:.4g}" for axis in sorted(values))


def _describe_scores(record: ModelRecord, unit: DistanceUnit) -> Iterator[str]:
    found = {name: shared.scores for name, shared in record.configurations.items() if shared.scores is not None}
    if not found and record.selected is None:
        yield "None are known."
        return
    yield "Mean ± standard deviation over cases that the networks did not see in training (in brackets: 95 % interval"
    yield "of the mean, by bootstrap). Dice 1 is perfect; HD95 is a distance of surfaces, NSD their share within"
    yield f"1 {unit}."
    for name, scores in found.items():
        yield from _tabulate(name, scores, record.class_names, unit)
    if record.selected is not None:
        chosen = record.selected
        yield f"\n{' + '.join(chosen.configurations)}, as selected: Dice {_format(chosen.foreground)}; with the"
        yield f"postprocessing that these cases chose, {_format(chosen.postprocessed)}."


def _tabulate(name: str, scores: ConfigurationScores, class_names: dict[str, str], unit: DistanceUnit) -> Iterator[str]:
    yield f"\n{name}, {scores.cases} cases, {describe_folds(scores.folds)}:\n"
    yield f"| class | {' | '.join(format_metric_name(score, unit) for score in SCORES)} |"
    yield f"|---|{'---|' * len(SCORES)}"
    rows = {_escape(class_names[key]): values for key, values in scores.classes.items()}
    for row, values in {**rows, "mean of the classes": scores.foreground}.items():
        yield f"| {row} | {' | '.join(_format(values[score]) for score in SCORES)} |"
    for warning in scores.warnings:
        yield f"\n**Warning:** {_escape(warning)}."


def _format(values: Statistic) -> str:
    if values.mean is None:
        return "-"
    spread = "" if values.std is None else f" ± {values.std:.3f}"
    interval = "" if values.lower is None else f" [{values.lower:.3f}, {values.upper:.3f}]"
    return f"{values.mean:.3f}{spread}{interval}"


def _describe_origin(record: ModelRecord, plan: Plan) -> Iterator[str]:
    trained = "; ".join(record.trained_with) or "another tool, from which autoseg took it over"
    yield f"- Trained with: {_escape(trained)} (plan: {_escape(plan.planner)})"
    yield f"- Written by: autoseg {record.autoseg_version}"
    licence = "not stated" if record.licence is None else _escape(record.licence)
    yield f"- Licence of the training data, as their dataset.json states it: {licence}"
    yield "- Without: images, label maps, names of cases and files, and anything that says who or where they came from"
