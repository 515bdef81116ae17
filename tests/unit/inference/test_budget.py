"""A prediction is fitted into a time per image: what it gives up, what it keeps, and what it says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.graphs import TapeGraphs
from builders.plans import build_configuration, build_plan
from builders.progress import Notes
from builders.selections import build_prediction_choice, build_selection, build_variant
from torch import nn

from autoseg.document import read_document, write_document
from autoseg.geometry import Grid
from autoseg.inference import forecast
from autoseg.inference.ensemble import MemberChoice, load_ensemble
from autoseg.inference.forecast import PassTime, find_pass_time, forecast_fold_seconds
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.networks.parts.planes import join_planes
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder
from autoseg.runtime.captured_network import capture_networks
from autoseg.volume_io import read_image, read_label_map, write_image
from autoseg.workflows.predict import budget
from autoseg.workflows.predict.budget import Way, fit_budget
from autoseg.workflows.predict.found_images import find_predicted_images
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.prediction_folder import PredictionRecord
from autoseg.workflows.select.model_choice import list_weights
from autoseg.workflows.select.selection_document import Member

GRID = Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.0, 1.0))
FULL, LOW = "3d_fullres", "3d_lowres"
SECONDS_PER_PATCH = 0.1
PLAIN = PredictionOptions(mirroring=False)
COARSE = PredictionOptions(mirroring=False, step_fraction=1.0)
VARIANTS = (
    build_variant(FULL, dice=0.9),
    build_variant(FULL, mirroring=False, dice=0.892),
    build_variant(FULL, mirroring=False, step_fraction=1.0, dice=0.87),
)
"""By `_steady_speed` 6.4 s, 0.8 s and 0.2 s a fold."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    configurations = {
        FULL: build_configuration((8, 8, 8), mirror_axes=(0, 1, 2)),
        LOW: build_configuration((8, 8, 8), mirror_axes=(0, 1, 2), spacing_mm=(2.0, 2.0, 2.0)),
    }
    for index, (name, fold) in enumerate(((FULL, "0"), (FULL, "1"), (LOW, "0"), (LOW, "1"))):
        write_trained_fold(tmp_path / "run", build_plan(configurations), name, fold=fold, seed=index)
    return RunFolder(tmp_path / "run")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).normal(size=GRID.shape_voxels).astype(np.float32)
    write_image(tmp_path / "images" / "case_0000.nii.gz", image, grid=GRID)
    return tmp_path / "images"


@pytest.fixture
def _steady_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch takes a tenth of a second in every network."""

    def forecast_seconds(model: SegmentationModel, grids: Sequence[Grid], options: PredictionOptions) -> float:
        views = 8 if options.mirroring else 1
        windows = {0.5: 8, 0.75: 4, 1.0: 2}[options.step_fraction]
        return SECONDS_PER_PATCH * windows * views

    monkeypatch.setattr(budget, "forecast_fold_seconds", forecast_seconds)


def fit(
    run: RunFolder,
    images: Path,
    seconds: float,
    *,
    names: Sequence[str] = (FULL,),
    options: PredictionOptions = DEFAULT_OPTIONS,
    progress: Notes | None = None,
    **choices: Any,
) -> Way:
    notes = progress or Notes()
    model = load_ensemble(run, [MemberChoice(configuration=name, folds=None) for name in names], device="cpu")
    found = find_predicted_images(images, run, progress=notes)
    usual = Way(model=model, options=options)
    measured = choices.pop("measured", build_prediction_choice(VARIANTS))
    return fit_budget(usual, found, budget_seconds=seconds, measured=measured, progress=notes, **choices)


@pytest.mark.parametrize(
    ("seconds", "options", "folds", "given_up"),
    [
        (60.0, DEFAULT_OPTIONS, 2, ()),
        (16.0, DEFAULT_OPTIONS, 2, ()),
        (15.9, DEFAULT_OPTIONS, 1, ("1 of 2 folds",)),
        (7.9, PLAIN, 2, ("mirrored views",)),
        (1.9, PLAIN, 1, ("mirrored views", "1 of 2 folds")),
        (0.9, COARSE, 2, ("mirrored views", "step 0.5 (now 1)")),
        (0.4, COARSE, 1, ("mirrored views", "step 0.5 (now 1)", "1 of 2 folds")),
    ],
)
@pytest.mark.usefixtures("_steady_speed")
def test_the_best_way_that_is_forecast_to_fit_is_taken(
    run: RunFolder, images: Path, *, seconds: float, options: PredictionOptions, folds: int, given_up: tuple[str, ...]
) -> None:
    way = fit(run, images, seconds)
    assert (way.options, way.fold_count, way.given_up) == (options, folds, given_up)
    assert way.seconds <= 0.8 * seconds


@pytest.mark.usefixtures("_steady_speed")
def test_what_is_given_up_is_said_with_what_it_costs_and_only_worthwhile_ways_are_listed(
    run: RunFolder, images: Path
) -> None:
    notes = Notes()
    fit(run, images, 1.9, progress=notes)
    assert "given up: mirrored views, 1 of 2 folds; Dice on held-out cases 0.8920 instead of 0.9000" in notes.text
    assert "what the folds gain was not measured" in notes.text
    assert "K folds are assumed to add 0.01 x (1 - 1 / K), which was not measured" in notes.text
    listed = [line for line in notes.lines if line.startswith(("  *", "  -"))]
    assert listed[0] == "  - 3d_fullres, 2 folds, mirroring, step 0.5: 12.8 s an image, Dice 0.9000"
    assumed = "-0.0050 for 1 of 2 folds (assumed)"  # 0.01 x (1 - 1 / 2)
    assert listed[3] == f"  * 3d_fullres, 1 fold, no mirroring, step 0.5: 0.8 s an image, Dice 0.8920, {assumed}"
    assert all(("(assumed)" in line) == ("1 fold," in line) for line in listed)
    assert len(listed) == 6


@pytest.mark.parametrize("names", [(FULL,), (FULL, LOW)])
def test_nothing_is_given_up_that_saves_no_time(
    run: RunFolder, images: Path, monkeypatch: pytest.MonkeyPatch, names: Sequence[str]
) -> None:
    # as a few patches are forecast to take at least as long as a single one
    monkeypatch.setattr(budget, "forecast_fold_seconds", lambda *_: SECONDS_PER_PATCH)
    way = fit(run, images, 60.0, names=names, measured=None)
    assert (way.options, way.fold_count, way.given_up) == (DEFAULT_OPTIONS, 2, ())


@pytest.mark.usefixtures("_steady_speed")
def test_precision_of_objects_is_not_called_dice(run: RunFolder, images: Path) -> None:
    notes = Notes()
    measured = build_prediction_choice(VARIANTS).model_copy(update={"score_name": "AP of objects"})
    fit(run, images, 1.9, measured=measured, progress=notes)
    assert "0.8 s an image, AP of objects 0.8920" in notes.text
    assert "; AP of objects on held-out cases 0.8920 instead of 0.9000" in notes.text
    assert "Dice" not in notes.text


@pytest.mark.usefixtures("_steady_speed")
def test_where_nothing_fits_the_fastest_way_is_taken_with_a_warning(run: RunFolder, images: Path) -> None:
    notes = Notes()
    way = fit(run, images, 0.1, progress=notes)
    assert (way.options, way.fold_count) == (COARSE, 1)
    assert "warning: no way is forecast to fit; the fastest takes about 0.2 s an image" in notes.text


@pytest.mark.usefixtures("_steady_speed")
def test_without_measurements_the_folds_go_last_and_that_is_said(run: RunFolder, images: Path) -> None:
    notes = Notes()
    way = fit(run, images, 0.6, measured=None, progress=notes)
    assert (way.options, way.fold_count) == (COARSE, 2)
    assert fit(run, images, 4.1, measured=None).options == PredictionOptions(step_fraction=1.0)
    assert "nothing was measured of these models: folds are given up last" in notes.text
    assert "Dice not measured" in notes.text


@pytest.mark.usefixtures("_steady_speed")
def test_options_that_the_user_named_are_not_given_up(run: RunFolder, images: Path) -> None:
    assert fit(run, images, 7.9, kept=("mirroring",)).options.mirroring
    assert fit(run, images, 0.6, kept=("step_fraction",)).options.step_fraction == 0.5
    way = fit(run, images, 0.6, options=PredictionOptions(step_fraction=0.75), kept=("step_fraction",))
    assert (way.options, way.dice) == (PredictionOptions(mirroring=False, step_fraction=0.75), None)


@pytest.mark.usefixtures("_steady_speed")
def test_views_that_were_not_selected_are_not_added_and_the_decoding_stays(run: RunFolder, images: Path) -> None:
    way = fit(run, images, 60.0, options=PredictionOptions(mirroring=False, decoding="dice"))
    assert way.options == PredictionOptions(mirroring=False, decoding="dice")
    assert (way.given_up, way.dice) == ((), 0.892)


@pytest.mark.usefixtures("_steady_speed")
def test_the_second_configuration_is_given_up_by_its_dice(run: RunFolder, images: Path) -> None:
    variants = (
        build_variant(FULL, LOW, dice=0.9),
        build_variant(FULL, LOW, mirroring=False, dice=0.85),
        build_variant(FULL, dice=0.88),
        build_variant(LOW, dice=0.898),
    )
    way = fit(run, images, 20.0, names=(FULL, LOW), measured=build_prediction_choice(variants))
    assert [member.configuration for member in way.model.members] == [LOW]
    assert (way.given_up, way.options) == ((FULL,), DEFAULT_OPTIONS)


def test_an_image_without_a_readable_header_leaves_the_budget_aside(run: RunFolder, images: Path) -> None:
    notes = Notes()
    (images / "case_0000.nii.gz").write_bytes(b"no image")
    assert fit(run, images, 1.0, progress=notes).given_up == ()
    assert "the budget is left aside" in notes.text


def test_the_time_of_a_patch_is_measured_once_and_multiplied(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = iter([4.0, 2.0, 3.0, 9.0, 5.0, 9.0])
    monkeypatch.setattr(forecast, "_time_pass", lambda network, patches: next(times))
    model = load_model(run, configuration=FULL, device="cpu", precision="float32")
    batch_size = model.inference_batch_size
    found = find_pass_time(model)
    assert found.single_seconds == 3.0
    assert found.seconds_per_patch == (3.0 if batch_size == 1 else 9.0 / batch_size)
    times = iter(())
    assert find_pass_time(model) == found
    (path,) = (tmp_path / "autoseg" / "pass_times").iterdir()
    assert read_document(path, PassTime) == found
    grid = Grid(shape_voxels=(16, 8, 8), spacing_mm=(1.0, 1.0, 1.0))
    expected = max(3 * 8 * found.seconds_per_patch, 3.0)
    assert forecast_fold_seconds(model, [grid], DEFAULT_OPTIONS) == pytest.approx(expected)
    assert forecast_fold_seconds(model, [grid], PLAIN) == pytest.approx(max(3 * found.seconds_per_patch, 3.0))


def test_a_disturbed_pass_of_one_patch_takes_no_longer_than_one_of_several(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = iter([9.0, 9.0, 9.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr(forecast, "_time_pass", lambda network, patches: next(times))
    model = replace(load_model(run, configuration=FULL, device="cpu", precision="float32"), inference_batch_size=2)
    assert (find_pass_time(model).single_seconds, find_pass_time(model).seconds_per_patch) == (4.0, 2.0)


@pytest.mark.parametrize("planes", [1, 2])
def test_passes_of_a_captured_network_are_timed_while_they_are_replayed(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planes: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, graphs = load_model(run, configuration=FULL, device="cpu", precision="float32"), TapeGraphs()
    captured = join_planes(capture_networks(model.networks * planes, graphs, inference_batch_size=2), planes)
    replays: list[int] = []

    def time_pass(network: nn.Module, patches: torch.Tensor) -> float:
        network(patches)
        replays.append(graphs.calls.count("replay"))
        return 1.0

    monkeypatch.setattr(forecast, "_time_pass", time_pass)
    find_pass_time(replace(model, networks=captured, inference_batch_size=2, execution="captured"))
    assert graphs.calls[:3] == ["warm up", "warm up", "capture"]
    assert replays[-3:] == [replays[-4] + 2, replays[-4] + 3, replays[-4] + 4], "one pass is replayed untimed"


@pytest.mark.usefixtures("_steady_speed")
def test_a_budget_writes_what_its_options_and_folds_alone_would_and_records_them(run: RunFolder, images: Path) -> None:
    member = Member(
        configuration=FULL,
        folds=("0", "1"),
        weights_sha256=list_weights(run, read_document(run.plan, Plan), FULL, ("0", "1")),
    )
    chosen = build_selection((member,), ()).model_copy(update={"prediction": build_prediction_choice(VARIANTS)})
    write_document(run.selection, chosen)
    request = PredictionRequest(device="cpu", precision="float32", budget_seconds=1.9)
    notes, out = Notes(), run.root / "out"
    predict_images(run.root, images, out, request=request, progress=notes)
    record = read_document(out / "prediction.json", PredictionRecord)
    assert (record.mirroring, record.step_fraction, record.folds) == (False, 0.5, ("0",))
    assert (record.budget_seconds, record.given_up) == (1.9, ("mirrored views", "1 of 2 folds"))
    assert record.weights_sha256 == member.weights_sha256[:1]
    assert "s an image, with reading and writing; the budget is 1.9 s" in notes.text
    volume = read_image([images / "case_0000.nii.gz"])
    model = load_model(run, configuration=FULL, folds=("0",), device="cpu", precision="float32")
    expected = model.predict_volume(volume.array, volume.grid, options=PLAIN)
    np.testing.assert_array_equal(read_label_map(out / "case.nii.gz").array, expected)
