"""Where the number of threads follows the CPU time: in training, validation, prediction and the API."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.plans import shorten
from builders.progress import Notes

import autoseg
from autoseg.runtime import cpu_threads
from autoseg.workflows.train.request import TrainingRequest


class Recorder:
    """Stands in for the threads of the libraries; notes who asked for what."""

    def __init__(self):
        self.held, self.adapted, self.depth = [], 0, 0

    @contextmanager
    def hold(self, announce, *, is_fixed):
        if self.depth == 0:
            self.held.append(is_fixed)
            announce("computing with threads")
        self.depth += 1
        yield
        self.depth -= 1

    def adapt(self):
        assert self.depth > 0, "whatever computes must be within adaptive_cpu_threads"
        self.adapted += 1


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(cpu_threads, "_LIBRARY_THREADS", recorder)
    return recorder


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_training_and_its_validation_follow_the_cpu_time_unless_they_are_to_repeat_themselves(
    trained_run: Path, tmp_path: Path, recorder, deterministic: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    shorten(run, "3d_fullres", epochs=1, iterations=2)
    request = TrainingRequest(
        configuration="3d_fullres", folds=("1",), device="cpu", deterministic=deterministic, workers=0
    )
    notes = Notes()
    autoseg.train_run(run, request, progress=notes)
    assert recorder.held == [deterministic]
    assert notes.lines.count("computing with threads") == 1
    validated = 6 // 5 + 1  # cases, each of at least one window with mirrored views
    assert recorder.adapted >= 2 * 2 + 1 + validated  # before forward and backward passes, in validation, in windows


def test_a_prediction_follows_the_cpu_time_from_loading_on(trained_run: Path, dataset: Path, tmp_path: Path, recorder):
    notes = Notes()
    autoseg.predict_images(trained_run, dataset / "imagesTr", tmp_path / "out", progress=notes)
    assert recorder.held == [False]
    assert notes.lines.count("computing with threads") == 1
    assert recorder.adapted >= 6


def test_so_do_models_in_a_notebook(trained_run: Path, dataset: Path, recorder) -> None:
    model = autoseg.load_model(trained_run)
    assert recorder.held == [False]
    image = nib.load(next((dataset / "imagesTr").iterdir()))
    array = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).T)
    before = recorder.adapted
    spacing_mm = tuple(float(extent) for extent in reversed(image.header.get_zooms()))
    autoseg.predict_volume(model, array, spacing_mm, orientation="RAS")
    assert recorder.held == [False, False]
    assert recorder.adapted > before
