"""What is drawn is looked at as matplotlib keeps it; whether it is beautiful, people judge."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from builders.folds import build_epoch_record
from matplotlib.backends.backend_agg import FigureCanvasAgg

from autoseg.training.monitoring.progress_picture import draw_progress, write_progress_picture
from autoseg.training.optimization.schedule import Schedule

make_record = partial(build_epoch_record, seconds=120.0)


def make_content(records, *, iterations=250, title="Dataset004_Hippocampus: 2d, fold 0 (planner lite)", dice=None):
    schedule = Schedule(iterations_per_epoch=iterations, validation_iterations_per_epoch=2, end_epoch=100)
    return {"records": records, "schedule": schedule, "title": title, "validation_dice": dice}


def read_texts(figure):
    return [text.get_text() for text in figure.texts] + [figure.get_suptitle()]


def read_curves(figure):
    return {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}


def test_the_picture_says_which_training_it_is_and_how_long_it_was():
    texts = read_texts(draw_progress(**make_content([make_record(epoch) for epoch in range(3)])))
    assert "Dataset004_Hippocampus: 2d, fold 0 (planner lite)" in texts
    assert "3 of 100 epochs, 750 training iterations in 6:00 min" in texts


def test_every_axis_has_a_name_with_its_unit():
    figure = draw_progress(**make_content([make_record(0)]))
    names = {axes.get_ylabel() for axes in figure.axes}
    assert names == {
        "loss (lower is better)",
        "Dice, mean over classes (1 is best)",
        "learning rate",
        "seconds per epoch",
    }
    assert figure.axes[-1].get_xlabel() == "epoch of 250 iterations, counted from 1"


def test_time_that_training_took_stands_beside_the_epochs():
    figure = draw_progress(**make_content([make_record(epoch) for epoch in range(5)]))
    FigureCanvasAgg(figure).draw()
    (lower,) = figure.axes[-1].child_axes
    assert lower.get_xlabel() == "training time (minutes)"
    assert lower.get_xlim() == pytest.approx((0, 10.3))  # beyond the last epoch by as much as the axis below
    to_time, to_epoch = lower._functions
    np.testing.assert_allclose(to_time(np.array([0.0, 1.0, 2.5, 5.0])), [0, 2, 5, 10])
    np.testing.assert_allclose(to_epoch(np.array([0.0, 2.0, 5.0, 10.0])), [0, 1, 2.5, 5])


def test_few_iterations_are_points_without_a_line_and_said_to_tell_nothing():
    figure = draw_progress(**make_content([make_record(0), make_record(1)], iterations=1))
    assert any("2 training iterations" in text and "too few to tell" in text for text in read_texts(figure))
    curve = read_curves(figure)["training"]
    assert (curve.get_linestyle(), curve.get_markersize()) == ("None", 6)


@pytest.mark.parametrize(("count", "marker_size"), [(1, 6), (3, 6), (100, 0)])
def test_a_single_epoch_can_be_seen_and_many_are_lines(count, marker_size):
    figure = draw_progress(**make_content([make_record(epoch) for epoch in range(count)]))
    curve = read_curves(figure)["pseudo Dice, moving average"]
    assert (curve.get_linestyle(), curve.get_markersize()) == ("-", marker_size)
    assert not any("too few" in text for text in read_texts(figure))


def test_dice_of_whole_volumes_is_drawn_where_it_is_known():
    records = [make_record(epoch, volume_dice=0.5 if epoch == 4 else None) for epoch in range(6)]
    curves = read_curves(draw_progress(**make_content(records)))
    assert curves["held-out cases, whole volumes (last: 0.500)"].get_xdata().tolist() == [5]
    assert not any("final model" in label for label in curves)
    validated = read_curves(draw_progress(**make_content(records, dice=0.823)))
    final = validated["held-out cases, whole volumes, final model: 0.823"]
    assert (final.get_xdata().tolist(), final.get_ydata().tolist()) == ([6], [0.823])


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("title", ["Dataset001_$x$_{: 2d", "Dataset001_海馬: 2d", ""])
def test_the_picture_is_a_png_also_with_gaps_one_epoch_or_a_strange_name(tmp_path, count, title):
    path = tmp_path / "progress.png"
    gaps = [make_record(0, mean_pseudo_dice=None, moving_average=None, train_loss=None, seconds=0.0)]
    records = gaps + [make_record(epoch) for epoch in range(1, count)]
    write_progress_picture(path, **make_content(records, title=title))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


SCRIPT = """
import sys
from pathlib import Path
from autoseg.training.monitoring.history import EpochRecord
from autoseg.training.monitoring.progress_picture import write_progress_picture
from autoseg.training.optimization.schedule import Schedule
record = EpochRecord.model_validate_json(sys.argv[2])
schedule = Schedule(iterations_per_epoch=1, validation_iterations_per_epoch=1, end_epoch=1)
write_progress_picture(Path(sys.argv[1]), [record], schedule, title="Dataset001_海馬")
"""


def test_a_picture_needs_no_display_and_prints_nothing(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "progress.png"), make_record(0).model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
