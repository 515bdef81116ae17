"""Plots the training history."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import nan
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from autoseg.processes.library_output import redirect_library_messages
from autoseg.processes.progress import format_duration
from autoseg.run_folder import write_atomically
from autoseg.training.monitoring.history import EpochRecord
from autoseg.training.optimization.schedule import Schedule

with redirect_library_messages():  # where fonts are not listed yet, it runs a program that complains about its cache
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

FEW_ITERATIONS: Final = 100  # a guess: with fewer, a network has hardly left its first weights
MOST_MARKED_EPOCHS: Final = 50  # more markers run into each other
MARKERS: Final = (".", "x")  # equal values show both
BELOW_THE_EPOCHS: Final = -0.42  # of the height of the lowest axes
TIME_UNITS: Final = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
SMALLEST: Final = 1e-6  # keeps time strictly increasing and the extent of axes positive


def write_progress_picture(
    path: Path,
    records: Sequence[EpochRecord],
    schedule: Schedule,
    *,
    title: str,
    validation_dice: float | None = None,
) -> None:
    """Writes the figure of `draw_progress` as PNG.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    canvas = FigureCanvasAgg(draw_progress(records, schedule, title=title, validation_dice=validation_dice))
    with write_atomically(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks
        canvas.print_png(str(temporary), pil_kwargs={"compress_level": 1})


def draw_progress(
    records: Sequence[EpochRecord], schedule: Schedule, *, title: str, validation_dice: float | None = None
) -> Figure:
    """Plots loss, Dice, learning rate and time over the epochs.

    Args:
        records: All finished epochs, at least one.
        schedule: The schedule that the training follows now.
        title: Names the training.
        validation_dice: Mean Dice of the final model over the held-out cases as whole volumes; None where it is not
            known.
    """
    iterations = len(records) * schedule.iterations_per_epoch
    figure = Figure(figsize=(10, 11))
    losses, dice, rates, times = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 1, 1.5))
    # A layout engine is slower.
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.09, top=0.9, hspace=0.26)
    figure.suptitle(title, fontsize=14, y=0.985, parse_math=False, wrap=True)
    figure.text(0.5, 0.945, _describe_length(records, schedule), fontsize=11, ha="center", va="center")
    style = _choose_style(iterations=iterations, epochs=len(records))
    _draw(losses, records, {"training": "train_loss", "validation": "validation_loss"}, style)
    losses.set_ylabel("loss (lower is better)")
    _draw_dice(dice, records, validation_dice, style)
    _draw(rates, records, {"learning rate": "learning_rate"}, style)
    rates.set_ylabel("learning rate")
    _draw(times, records, {"whole epoch": "seconds", "waiting for patches": "data_wait_seconds"}, style)
    times.set_ylabel("seconds per epoch")
    for axes in (rates, times):
        axes.set_ylim(0, 1.1 * max(axes.dataLim.y1, SMALLEST))
    for axes in (losses, dice, times):  # above, as they would hide a single point
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.1, fontsize=9)
    times.set_xlabel(f"epoch of {schedule.iterations_per_epoch} iterations, counted from 1")
    times.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    times.set_xlim(0, 1.03 * len(records))
    _add_time_axis(times, records)
    return figure


def _describe_length(records: Sequence[EpochRecord], schedule: Schedule) -> str:
    count, end = len(records), schedule.end_epoch
    iterations = count * schedule.iterations_per_epoch
    of_all = "" if end is None else f" of {max(end, count)}"
    seconds = sum(record.seconds for record in records)
    unit = "h" if round(seconds) >= 3600 else "min"
    text = f"{count}{of_all} epochs, {iterations} training iterations in {format_duration(seconds)} {unit}"
    return text if iterations >= FEW_ITERATIONS else f"{text}: too few to tell whether it learns"


def _choose_style(*, iterations: int, epochs: int) -> dict[str, Any]:
    """Plots few iterations as points alone, as a line would look like a trend, and many epochs as lines alone."""
    is_line = iterations >= FEW_ITERATIONS
    is_marked = not is_line or epochs <= MOST_MARKED_EPOCHS
    return {"linestyle": "-" if is_line else "none", "markersize": 6 if is_marked else 0}


def _draw(axes: Axes, records: Sequence[EpochRecord], fields: Mapping[str, str], style: Mapping[str, Any]) -> None:
    """Plots one curve per field of the records, under its name."""
    for (name, field), marker in zip(fields.items(), MARKERS, strict=False):
        values = [getattr(record, field) for record in records]
        numbers = [nan if value is None else value for value in values]
        axes.plot(_list_positions(records), numbers, label=name, marker=marker, **style)
    axes.grid(visible=True, alpha=0.3)


def _draw_dice(
    axes: Axes, records: Sequence[EpochRecord], validation_dice: float | None, style: Mapping[str, Any]
) -> None:
    """Plots the Dice scores on an axis from 0 to 1, so that noise never fills the figure."""
    measured = [(record, record.volume_dice) for record in records if record.volume_dice is not None]
    if measured:
        validated, values = zip(*measured, strict=True)
        label = f"held-out cases, whole volumes (last: {values[-1]:.3f})"
        axes.plot(_list_positions(validated), values, label=label, color="tab:green", marker="s", markersize=4)
    if validation_dice is not None:
        label = f"held-out cases, whole volumes, final model: {validation_dice:.3f}"
        position = records[-1].epoch + 1
        axes.axhline(validation_dice, color="tab:red", linewidth=0.8, linestyle="--")
        axes.plot([position], [validation_dice], label=label, color="tab:red", marker="*", markersize=12, ls="none")
    fields = {"pseudo Dice (random patches)": "mean_pseudo_dice", "pseudo Dice, moving average": "moving_average"}
    _draw(axes, records, fields, style)
    axes.set_ylabel("Dice, mean over classes (1 is best)")
    axes.set_ylim(-0.02, 1.02)


def _list_positions(records: Sequence[EpochRecord]) -> list[int]:
    return [record.epoch + 1 for record in records]


def _add_time_axis(axes: Axes, records: Sequence[EpochRecord]) -> None:
    """Adds an axis of the training time at the end of each epoch, without saving and pauses."""
    spent = list(accumulate((max(record.seconds, SMALLEST) for record in records), initial=0.0))
    unit, seconds = next((name, length) for name, length in TIME_UNITS if spent[-1] >= 2 * length or length == 1)
    # The axis extends beyond the last epoch, as if further epochs took as long as the last one.
    further = spent[-1] + len(records) * (spent[-1] - spent[-2])
    times, epochs = np.array([*spent, further]) / seconds, np.array([*range(len(spent)), 2 * len(records)])

    def tell_time(epoch: ArrayLike) -> ArrayLike:
        time: ArrayLike = np.interp(np.asarray(epoch), epochs, times)
        return time

    def find_epoch(time: ArrayLike) -> ArrayLike:
        epoch: ArrayLike = np.interp(np.asarray(time), times, epochs)
        return epoch

    lower = axes.secondary_xaxis(BELOW_THE_EPOCHS, functions=(tell_time, find_epoch))
    lower.set_xlabel(f"training time ({unit})")
