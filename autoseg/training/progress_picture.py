"""The history as a picture."""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoseg.run_folder import write_atomically
from autoseg.training.history import EpochRecord


def write_progress_picture(path: Path, records: Sequence[EpochRecord]) -> None:
    """Draws loss, pseudo Dice and time per epoch, one below the other."""
    figure = Figure(figsize=(10, 11))
    canvas = FigureCanvasAgg(figure)
    losses, dice, times = figure.subplots(3, 1, sharex=True)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.05, top=0.98, hspace=0.06)  # a layout engine is slower
    losses.set_ylabel("loss")
    _draw(losses, records, {"training": "train_loss", "validation": "validation_loss"})
    dice.set_ylabel("pseudo Dice")
    _draw(dice, records, {"mean over the classes": "mean_pseudo_dice", "moving average": "moving_average"})
    times.set_ylabel("seconds")
    _draw(times, records, {"whole epoch": "seconds", "waiting for patches": "data_wait_seconds"})
    times.set_xlabel("epoch")
    times.set_ylim(bottom=0)
    with write_atomically(path) as temporary:
        canvas.print_png(str(temporary))


def _draw(axes: Axes, records: Sequence[EpochRecord], fields: Mapping[str, str]) -> None:
    """One curve per field of the records, under its name."""
    epochs = [record.epoch for record in records]
    for name, field in fields.items():
        values = [getattr(record, field) for record in records]
        numbers = [nan if value is None else value for value in values]
        axes.plot(epochs, numbers, label=name, marker="." if len(epochs) == 1 else None)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
