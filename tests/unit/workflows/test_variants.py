"""What `autoseg select` measures of other ways to predict, and what it makes of it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan
from builders.preprocessing import preprocess_training_case
from builders.progress import Notes
from builders.selections import build_prediction_choice, build_selection
from builders.threads import use_one_thread

from autoseg.dataset.folds import Fold, Splits
from autoseg.document import read_document, write_document
from autoseg.geometry import Grid
from autoseg.inference.ensemble import MemberChoice, load_ensemble
from autoseg.inference.model import load_model
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.plan import Plan
from autoseg.preprocessing.cache import write_case
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.processes import case_pool
from autoseg.processes.progress import SilentProgress
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration
from autoseg.run_folder import RunFolder, remove_folder
from autoseg.stages.training_cases import open_training_case, read_network_input
from autoseg.volume_io import read_label_map, write_label_map
from autoseg.workflows.cases.network_features import average_features, measure_network_features
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_jobs
from autoseg.workflows.plan.preprocessing import extract_recipe
from autoseg.workflows.select import stored_predictions, variants
from autoseg.workflows.select.held_out import find_held_out
from autoseg.workflows.select.prediction_choice import PredictionChoice
from autoseg.workflows.select.quality import score_held_out
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection import select_models
from autoseg.workflows.select.selection_document import Member, Selection
from autoseg.workflows.select.stored_predictions import VariantJob, write_prediction
from autoseg.workflows.select.variants import choose_prediction

GRID = Grid(shape_voxels=(2, 24, 16), spacing_mm=(1.0, 1.0, 1.0))
FOLDS = (("a", "b", "c"), ("d", "e", "f"))
CASES = tuple(case for fold in FOLDS for case in fold)
LIVER = 5
PLAIN = PredictionOptions(mirroring=False)
PLAIN_DICE = PredictionOptions(mirroring=False, decoding="dice")
DICE = PredictionOptions(decoding="dice")

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring would start processes on several cores."""
    monkeypatch.setattr(case_pool, "count_usable_cpus", lambda: 1)


def make_label_map(columns: int) -> np.ndarray:
    """Liver in the first columns; 8 are right."""
    label_map = np.zeros(GRID.shape_voxels, np.uint8)
    label_map[:, :columns] = LIVER
    return label_map


def write_run(
    root: Path,
    *,
    mirror_axes: tuple[int, ...],
    patch_voxels: tuple[int, int] = (16, 8),
    names: tuple[str, ...] = ("2d",),
) -> RunFolder:
    """Six preprocessed cases of two folds, whose validation found liver in 7 of 8 columns."""
    run = RunFolder(root)
    plan = build_plan(
        {name: build_configuration(patch_voxels, data_of="2d", mirror_axes=mirror_axes) for name in names}
    )
    for index, (name, fold) in enumerate(product(names, ("0", "1"))):
        write_trained_fold(root, plan, name, fold=fold, seed=index)
    folds = tuple(Fold(training=FOLDS[1 - index], validation=validation) for index, validation in enumerate(FOLDS))
    write_document(run.splits, Splits(folds=folds))
    write_document(run.recipe("2d"), extract_recipe(plan, "2d"))
    for index, case in enumerate(CASES):
        image = np.random.default_rng(index).normal(size=(1, *GRID.shape_voxels)).astype(np.float32)
        done = preprocess_training_case(
            image, make_label_map(8).astype(np.int16) // LIVER, GRID, plan, configuration="2d"
        )
        locations = find_class_locations(done.label_map, plan.labels)
        write_case(run.preprocessed("2d"), case, done, locations=locations, patch_voxels=patch_voxels)
        write_label_map(run.references / f"{case}.nii.gz", make_label_map(8), grid=GRID, like=None)
    for name in names:
        write_validations(run, plan, name)
    return run


def write_validations(run: RunFolder, plan: Plan, name: str) -> None:
    for index, cases in enumerate(FOLDS):
        folder, jobs = run.fold(name, str(index)).validation, []
        for case in cases:
            path, reference = folder / f"{case}.nii.gz", run.references / f"{case}.nii.gz"
            write_label_map(path, make_label_map(7), grid=GRID, like=None)
            jobs.append(EvaluationJob(case=case, prediction=path, reference=reference, labels=plan.labels))
        evaluate_jobs(jobs, folder=folder, progress=SilentProgress())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("prepared") / "run", mirror_axes=(0, 1))


@pytest.fixture
def run(prepared: RunFolder) -> RunFolder:
    """Nothing but the validation is predicted."""
    for path in (prepared.root / "variants", prepared.logs):
        remove_folder(path)
    prepared.selection.unlink(missing_ok=True)
    return prepared


def open_job(run: RunFolder) -> VariantJob:
    return VariantJob(run=run, members=find_held_out(run, configurations=None, folds=None), cases=CASES, device="cpu")


def predict_by_hand(run: RunFolder, columns: Mapping[PredictionOptions, int]) -> None:
    """Stores label maps as if they had been predicted earlier."""
    job = open_job(run)
    for options, count in columns.items():
        for case in CASES:
            label_map = make_label_map(count)
            write_prediction(run, job.find_folder(options), job.members, case, label_map=label_map, grid=GRID)


def select(run: RunFolder, *, progress: SilentProgress | None = None, variants: bool = True) -> Selection:
    request = SelectionRequest(device="cpu", variants=variants)
    chosen = select_models(run.root, request, progress=progress or SilentProgress())
    assert chosen == read_document(run.selection, Selection)
    return chosen


def with_steps(columns: Mapping[PredictionOptions, int]) -> dict[PredictionOptions, int]:
    steps = {PredictionOptions(mirroring=False, step_fraction=step): 4 for step in (0.75, 1.0)}
    return {**columns, **steps, PredictionOptions(step_fraction=0.75): 4}


def choose(run: RunFolder, *, progress: SilentProgress | None = None) -> PredictionChoice:
    """Chooses where the validation found liver in 7 columns; tumours are in no reference."""
    usual, is_scored = np.array([[14 / 15, np.nan]] * len(CASES)), np.array([True, False])
    chosen = choose_prediction(
        open_job(run), usual, alone={}, is_scored=is_scored, progress=progress or SilentProgress()
    )
    assert chosen is not None
    return chosen


@pytest.mark.parametrize(
    ("columns", "mirroring", "decoding"),
    [
        ({PLAIN: 6, PLAIN_DICE: 6}, True, "argmax"),
        ({PLAIN: 6, PLAIN_DICE: 7, DICE: 8}, True, "dice"),
        ({PLAIN: 6, PLAIN_DICE: 7, DICE: 7}, True, "argmax"),
        ({PLAIN: 7, PLAIN_DICE: 7}, False, "argmax"),
        ({PLAIN: 7, PLAIN_DICE: 8}, False, "dice"),
        ({PLAIN: 8, PLAIN_DICE: 7}, False, "argmax"),
    ],
)
def test_mirroring_is_kept_where_it_gains_and_decoding_changes_where_its_whole_interval_gains(
    run: RunFolder, columns: dict[PredictionOptions, int], mirroring: bool, decoding: str
) -> None:
    predict_by_hand(run, with_steps(columns))
    notes = Notes()
    chosen = choose(run, progress=notes)
    assert (chosen.mirroring, chosen.decoding) == (mirroring, decoding)
    predicted = {
        total for label, total in zip(notes.labels, notes.totals, strict=True) if label == "Predicting variant"
    }
    assert predicted == {0}  # all are there from earlier


def test_where_objects_are_told_apart_these_decide_about_mirroring(run: RunFolder) -> None:
    predict_by_hand(run, {PLAIN: 8})
    asked: list[PredictionOptions] = []

    def score(options: PredictionOptions) -> np.ndarray:
        asked.append(options)
        return np.full((6, 1), 0.5)

    for usual, mirroring in ((0.4, False), (0.6, True)):
        choice = choose_prediction(
            open_job(run),
            np.full((6, 1), usual),
            alone={},
            is_scored=np.array([True]),
            progress=SilentProgress(),
            score_objects=score,
        )
        assert choice is not None
        assert choice.options == PredictionOptions(mirroring=mirroring)
        assert choice.model_dump()["score_name"] == "AP of objects"
        assert choice.decoding_because == "objects are found from probabilities, whatever the decoding is"
        assert ("in AP of objects" in choice.mirroring_because) == mirroring
    assert asked[0] == PLAIN
    assert {options.decoding for options in asked} == {"argmax"}


def test_the_reasons_and_the_table_hold_the_figures(run: RunFolder) -> None:
    predict_by_hand(run, with_steps({PLAIN: 6, PLAIN_DICE: 7, DICE: 8}))
    chosen, gain = choose(run), 14 / 15 - 12 / 14
    assert chosen.mirroring_gain is not None
    assert chosen.mirroring_gain.mean == pytest.approx(gain)
    assert chosen.mirroring_because.startswith(f"mirrored views gain {gain:+.4f}")
    assert chosen.mirroring_because.endswith("for 4 times the time")
    assert chosen.decoding_because.endswith(", all of it above 0")
    listed = [(v.mirroring, v.step_fraction, v.decoding, v.passes_per_case) for v in chosen.variants]
    small, large = 2 * 2 * 3, 2 * 2 * 2  # windows; those of step 0.75 are as many as of 0.5
    assert listed == [
        (True, 0.5, "argmax", 4 * small),
        (False, 0.5, "argmax", small),
        (False, 0.5, "dice", small),
        (True, 0.5, "dice", 4 * small),
        (False, 1.0, "argmax", large),
    ]
    assert [v.foreground.mean for v in chosen.variants[:2]] == pytest.approx([14 / 15, 12 / 14])


def test_postprocessing_is_learned_on_the_label_maps_that_are_predicted_from_then_on(run: RunFolder) -> None:
    predict_by_hand(run, with_steps({PLAIN: 7, PLAIN_DICE: 8}))
    chosen = select(run)
    assert chosen.prediction is not None
    assert chosen.prediction.options == PLAIN_DICE
    assert chosen.postprocessing.before.mean == 1.0
    assert chosen.candidates[0].foreground.mean == pytest.approx(14 / 15)


def read_calibration(run: RunFolder) -> tuple[PredictionOptions, QualityCalibration]:
    found = read_document(run.root / CALIBRATION_NAME, QualityCalibration)
    options = PredictionOptions(mirroring=found.mirroring, step_fraction=found.step_fraction, decoding=found.decoding)
    return options, found


def find_volume(calibration: QualityCalibration) -> float:
    """Finds the median volume of the livers in the label maps of the held-out cases."""
    return next(known.median for known in calibration.distribution.ranges if known.measure == "volume")


def test_quality_is_calibrated_on_the_label_maps_of_the_chosen_options_and_else_on_those_of_validations(
    run: RunFolder,
) -> None:
    predict_by_hand(run, with_steps({PLAIN: 7, PLAIN_DICE: 8}))
    select(run)
    options, calibration = read_calibration(run)
    assert (options, calibration.cases) == (PLAIN_DICE, 6)
    assert find_volume(calibration) == pytest.approx(math.log(2 * 8 * 16 / 1000))
    assert select(run, variants=False).prediction is None
    options, calibration = read_calibration(run)
    assert (options, calibration.cases) == (DEFAULT_OPTIONS, 6)
    assert find_volume(calibration) == pytest.approx(math.log(2 * 7 * 16 / 1000))


def test_features_are_measured_while_variants_are_predicted_and_those_that_are_missing_once_more(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "SMALLEST_MIRRORING_GAIN", 2.0)  # not worth its time
    notes, folder = Notes(), open_job(run).find_folder(PLAIN)
    assert select(run, progress=notes).options.mirroring is False
    expected = read_calibration(run)
    assert "predicted once more" not in notes.text
    assert {path.parent for path in (run.root / "variants").rglob("*.features.json")} == {folder}
    with monkeypatch.context() as patch:
        patch.setattr(stored_predictions, "load_held_out_model", None)
        select(run)
    assert read_calibration(run) == expected
    for case in ("b", "e"):
        (folder / f"{case}.features.json").unlink()
    select(run, progress=notes)
    assert "features of 2 held-out cases are not stored; these cases are predicted once more" in notes.text
    assert read_calibration(run) == expected


def test_networks_predict_variants_as_they_predict_new_images_and_an_interrupted_call_continues(run: RunFolder) -> None:
    choose(run)
    job = open_job(run)
    for options in (PLAIN, PLAIN_DICE):
        model = load_model(run, configuration="2d", folds=("0",), device="cpu", execution="eager")
        case = open_training_case(run, model.plan, "2d", "a")
        logits = model.predict_preprocessed(read_network_input(case, model.plan, "2d"), options=options)
        expected = model.restore_label_map(logits, case.geometry, decoding=options.decoding)
        found = read_label_map(job.list_jobs(options)[0].prediction).array
        np.testing.assert_array_equal(found, expected)
    notes = Notes()
    for case in ("b", "e"):
        job.list_jobs(PLAIN)[CASES.index(case)].prediction.unlink()
    choose(run, progress=notes)
    assert notes.text.count("0 held-out cases to predict") >= 1
    assert (
        "without mirrored views, step 0.5, decoding argmax and dice: 2 held-out cases to predict, 4 are" in notes.text
    )


def test_held_out_cases_are_opened_once_to_count_windows(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    job = open_job(run)
    passes = job.count_passes(PLAIN)
    monkeypatch.setattr(stored_predictions, "open_training_case", None)
    assert job.count_passes(replace(PLAIN, mirroring=True)) == 4 * passes


def test_a_pair_is_measured_as_one_beside_its_members_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("2d", "2d_other")
    run = write_run(tmp_path / "run", mirror_axes=(0,), patch_voxels=(24, 16), names=names)
    job, usual = open_job(run), np.array([[0.1, np.nan]] * len(CASES))
    alone = {"2d": usual, "2d_other": usual + 0.1}
    scored = np.array([True, False])
    choice = choose_prediction(job, usual, alone=alone, is_scored=scored, progress=SilentProgress())
    assert choice is not None
    described = [(variant.configurations, variant.mirroring, variant.passes_per_case) for variant in choice.variants]
    assert described[0] == (names, True, 8.0)
    assert described[1] == (names, False, 4.0)
    assert described[-2:] == [(("2d",), True, 4.0), (("2d_other",), True, 4.0)]
    assert [v.foreground.mean for v in choice.variants[-2:]] == pytest.approx([0.1, 0.2])
    ensemble = load_ensemble(
        run, [MemberChoice(configuration=name, folds=("1",)) for name in names], device="cpu", execution="eager"
    )
    logits, geometries, features = [], [], []
    for member in ensemble.members:
        case = open_training_case(run, member.plan, member.configuration, "d")
        image = read_network_input(case, member.plan, member.configuration)
        logits.append(member.predict_preprocessed(image, options=PLAIN))
        geometries.append(case.geometry)
        features.append(measure_network_features([image], [logits[-1]], case.geometry, member.plan))
    found = read_label_map(job.list_jobs(PLAIN)[CASES.index("d")].prediction).array
    np.testing.assert_array_equal(found, ensemble.restore_label_map(logits, geometries))
    assert job.read_features(job.find_folder(PLAIN), "d") == average_features(features)
    selected = build_selection(
        tuple(Member(configuration=name, folds=("0",), weights_sha256=("",)) for name in names), ()
    )
    selected = selected.model_copy(update={"prediction": choice.model_copy(update={"mirroring": False})})
    monkeypatch.setattr(stored_predictions, "load_held_out_model", None)
    scored = score_held_out(run, job.members, job.list_jobs(PLAIN), selected, device="cpu", progress=SilentProgress())
    assert scored["d"].features.network == average_features(features)


def test_without_measurements_the_selection_is_as_before(run: RunFolder) -> None:
    assert select(run, variants=False).prediction is None
    assert not (run.root / "variants").exists()


def test_a_selection_of_an_earlier_version_is_read(run: RunFolder) -> None:
    chosen = select(run, variants=False)
    earlier = chosen.model_dump(mode="json")
    del earlier["prediction"]
    assert Selection.model_validate(earlier) == chosen
    assert "score_name" not in build_prediction_choice().model_dump(), "only what is no Dice is named"


def test_networks_without_mirrored_views_are_compared_by_decoding_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", mirror_axes=(), patch_voxels=(24, 16))
    predict_by_hand(run, {DICE: 8})
    chosen = choose(run)
    assert (chosen.options, chosen.mirroring_gain) == (DICE, None)
    assert "trained without mirroring" in chosen.mirroring_because
    assert len(chosen.variants) == 2  # one window for every step


@pytest.mark.parametrize("obstacle", ["few cases", "no preprocessed cases"])
def test_what_cannot_be_measured_is_left_out_with_a_note(tmp_path: Path, obstacle: str) -> None:
    run, notes = write_run(tmp_path / "run", mirror_axes=(0,)), Notes()
    if obstacle == "few cases":
        request = SelectionRequest(device="cpu", folds=("0",))
        chosen = select_models(run.root, request, progress=notes)
        assert "not compared: too few cases to tell, fewer than 5" in notes.text
    else:
        remove_folder(run.preprocessed("2d"))
        chosen = select(run, progress=notes)
        assert "mirroring, steps and decodings are not compared: " in notes.text
    assert chosen.prediction is None


def test_the_options_name_the_folder(run: RunFolder) -> None:
    job = open_job(run)
    folders = {job.find_folder(options) for options in (DEFAULT_OPTIONS, PLAIN, PLAIN_DICE, DICE)}
    assert len(folders) == 4
    assert job.find_folder(PLAIN) == run.root / "variants" / "2d" / "no_mirroring_step_0.5_argmax"
