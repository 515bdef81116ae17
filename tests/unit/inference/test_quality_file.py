"""quality.json beside the label maps: what it says, and how a folder is continued."""

import hashlib
import json

import numpy as np
import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.folds import write_trained_fold
from builders.geometries import build_geometry
from builders.plans import build_configuration, build_plan
from builders.progress import Notes
from builders.selections import build_prediction_choice, build_selection

from autoseg.document import read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.exchange.model_file import unpack_model_file
from autoseg.geometry import Grid
from autoseg.inference.options import PredictionOptions
from autoseg.processes.progress import SilentProgress
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration, ScoredCase, fit_calibration
from autoseg.quality.distribution import describe_training_grids
from autoseg.quality.estimates import QualityReport
from autoseg.quality.features import CaseFeatures, ClassProbabilities, NetworkFeatures
from autoseg.quality.images import measure_image
from autoseg.quality.shapes import measure_shapes
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map, write_image
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.predict import budget, image_steps
from autoseg.workflows.predict import quality as quality_files
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.quality import LINES_NAME
from autoseg.workflows.report.dataset import measure_voxel_ml
from autoseg.workflows.select.selection_document import Member, Selection

GRID = Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.5, 1.0))
PLAN = build_plan({"3d_fullres": build_configuration((8, 8, 8))})
TRAINING_CASES = [
    build_case((1.0, 1.5, 1.0), (40, 40, 40), name=f"c{index}", voxel_counts=(9, 9)) for index in range(6)
]


@pytest.fixture
def run(tmp_path):
    write_trained_fold(tmp_path / "run", PLAN, "3d_fullres", fold="0")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for index in range(3):
        image = random.normal(size=GRID.shape_voxels).astype(np.float32)
        write_image(tmp_path / "images" / f"case{index}_0000.nii.gz", image, grid=GRID)
    return tmp_path / "images"


def predict(run, images, out="out", progress=None, **choices):
    folder = run.root.parent / out
    chosen = {"precision": "float32", "execution": "eager", "options": PredictionOptions()} | choices
    request = PredictionRequest(device="cpu", **chosen)
    predict_images(run.root, images, folder, request=request, progress=progress or SilentProgress())
    return folder


def read(out):
    return read_document(out / "quality.json", QualityReport)


def measure_example():
    noise = np.random.default_rng(0).normal(size=(1, *GRID.shape_voxels)).astype(np.float32)
    label_map = np.random.default_rng(0).integers(0, 3, GRID.shape_voxels).astype(np.int16)
    image = measure_image(noise, build_geometry(GRID.shape_voxels))
    return image, measure_shapes(label_map, GRID.spacing_mm, PLAN.labels)


def fit_example(count=25):
    """A calibration of simulated cases."""
    image, shapes = measure_example()
    random, names, cases = np.random.default_rng(0), PLAN.labels.class_names, []
    for soft_dice in random.uniform(0.3, 0.6, count).tolist():
        of_class = ClassProbabilities(
            soft_dice=soft_dice,
            border_uncertainty=0.3,
            class_uncertainty=0.3,
            expected_fraction=1.0,
            intensities=(0.1,),
        )
        network = NetworkFeatures(image=image, probabilities=(of_class,) * len(names))
        score = (soft_dice,) * len(names)
        features = CaseFeatures(network=network, shapes=shapes)
        cases.append(ScoredCase(features=features, dice=score, nsd=score, reference_ml=(0.2,) * len(names)))
    channels = [channel.name for channel in PLAN.channels]
    classes, distribution = fit_calibration(cases, np.arange(count) % 2, channel_names=channels, class_names=names)
    return QualityCalibration(
        autoseg_version="1",
        weights_sha256=(),
        postprocessing=(),
        cases=count,
        class_names=names,
        classes=classes,
        distribution=distribution,
    )


@pytest.fixture(scope="module")
def fitted():
    return fit_example()


@pytest.fixture
def calibration(run, fitted):
    """Selects the fold, and writes its calibration into the run."""
    weights = hashlib.sha256(run.fold("3d_fullres", "0").final_checkpoint.read_bytes()).hexdigest()
    member = Member(configuration="3d_fullres", folds=("0",), weights_sha256=(weights,))
    write_document(run.selection, build_selection((member,), ()))
    write_document(run.root / CALIBRATION_NAME, fitted.model_copy(update={"weights_sha256": (weights,)}))
    return fitted


def choose_options(run, **options):
    """Chooses options of prediction for what was selected."""
    selected = read_document(run.selection, Selection)
    choice = build_prediction_choice(**options)
    write_document(run.selection, selected.model_copy(update={"prediction": choice}))


def test_every_case_has_volumes_and_a_run_without_calibration_says_so(run, images):
    notes = Notes()
    out = predict(run, images, progress=notes)
    report = read(out)
    assert [case.name for case in report.cases] == ["case0", "case1", "case2"]
    label_map = read_label_map(out / "case1.nii.gz").array
    for value, name in zip(PLAN.labels.file_values[1:], PLAN.labels.class_names, strict=True):
        found = report.cases[1].classes[name]
        assert found.volume.value == pytest.approx((label_map == value).sum() * 1.5 / 1000)
        assert (found.dice, found.nsd) == (None, None)
    assert "this model came without a calibration" in report.calibration
    assert "nor are there any flags" in report.calibration
    assert report.compared is False
    assert report.calibration in notes.text


@pytest.mark.parametrize(
    ("spacing_mm", "shown_mm", "unit"),
    [
        ((999.0, 1.0, 1.0), 1.0, "thousand voxels"),
        ((499.5, 0.5, 0.5), 1.0, "ml"),
        ((5.0, 0.5, 0.5), 5.0, "ml"),
    ],
)
def test_a_2d_image_counts_as_1_mm_thick_and_a_volume_of_one_slice_as_it_is(spacing_mm, shown_mm, unit):
    tells_spacing = unit == "ml"
    plan = PLAN.model_copy(update={"distance_unit": "mm" if tells_spacing else "pixel"})
    grid = Grid(shape_voxels=(1, 50, 50), spacing_mm=spacing_mm, is_oriented=tells_spacing, tells_spacing=tells_spacing)
    cases = [build_case(spacing_mm, (1, 60, 80), name=f"c{index}", voxel_counts=(9, 9)) for index in range(6)]
    known = build_fingerprint(spacing_mm, (1, 60, 80), labels=plan.labels, cases=cases)
    finished = np.zeros((1, 50, 50), np.uint8)
    finished[0, :20, :30] = plan.labels.file_values[1]
    image = np.random.default_rng(0).normal(size=(1, 1, 50, 50)).astype(np.float32)
    estimator = quality_files.QualityEstimator(
        plan=plan, calibration=None, distribution=describe_training_grids(known, (0, 1, 2)), because=""
    )
    measured = measure_image(image, build_geometry((1, 50, 50)))
    network = NetworkFeatures(image=measured.model_copy(update={"spacing_mm": spacing_mm}), probabilities=(None, None))
    found = estimator.estimate("a", "a.png", finished, grid=grid, network=network)
    name, voxel_ml = plan.labels.class_names[0], spacing_mm[2] ** 2 * shown_mm / 1000
    assert found.classes[name].volume.value == pytest.approx(600 * voxel_ml)
    assert measure_voxel_ml(spacing_mm, (1, 50, 50), tells_spacing=tells_spacing) == pytest.approx(voxel_ml)
    texts, usual = [flag.text for flag in found.flags], f"{9 * voxel_ml:.3g}"
    assert f"{name}: volume {600 * voxel_ml:.3g} {unit}, in 6 training cases {usual} to {usual}" in texts
    length = "mm" if tells_spacing else "pixels"
    assert any(text.startswith(f"axis y: extent 50 {length}, in 6 training cases") for text in texts)


def test_a_fingerprint_gives_flags_without_a_calibration(run, images):
    fingerprint = build_fingerprint((1.0, 1.5, 1.0), (40, 40, 40), labels=PLAN.labels, cases=TRAINING_CASES)
    write_document(run.fingerprint, fingerprint)
    notes = Notes()
    report = read(predict(run, images, progress=notes))
    assert report.compared
    assert {flag.kind for case in report.cases for flag in case.flags} >= {"extent"}
    assert "quality: 3 of 3 predictions to be looked at first (quality.json): case" in notes.text


def test_a_calibrated_run_gives_expected_scores_with_intervals(run, calibration, images):
    report = read(predict(run, images))
    assert report.calibration == calibration.describe()
    for case in report.cases:
        for found in case.classes.values():
            assert 0 <= found.dice.low <= found.dice.value <= found.dice.high <= 1
            assert found.volume.low <= found.volume.value <= found.volume.high


@pytest.fixture
def _steady_speed(monkeypatch):
    """Larger steps are faster, whatever else runs here."""
    monkeypatch.setattr(budget, "forecast_fold_seconds", lambda _model, _grids, options: 1 / options.step_fraction)


@pytest.mark.usefixtures("calibration", "_steady_speed")
@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"configuration": "3d_fullres"}, "the calibration is that of other models"),
        ({"postprocessing": False, "mirroring": False}, "predictions with mirrored views (here without)"),
        (
            {"step_fraction": 1.0, "decoding": "dice"},
            "predictions with step 0.5 (here 1) and with decoding argmax (here dice); flags",
        ),
        ({"options": None, "budget_seconds": 1e-6}, "predictions with step 0.5 (here 1); flags"),
    ],
)
def test_a_calibration_of_another_prediction_gives_no_estimate(run, images, choices, words):
    fingerprint = build_fingerprint((1.0, 1.5, 1.0), (40, 40, 40), labels=PLAN.labels, cases=TRAINING_CASES)
    write_document(run.fingerprint, fingerprint)
    report = read(predict(run, images, **choices))
    found = report.cases[0].classes[PLAN.labels.class_names[0]]
    assert words in report.calibration
    assert (found.dice, found.volume.value > 0) == (None, True)
    assert report.cases[0].flags


def test_a_calibration_of_chosen_options_holds_for_these_alone(run, calibration, images):
    choose_options(run, mirroring=False, decoding="dice")
    earlier = read(predict(run, images, "earlier", options=None))  # a calibration from before the choice
    assert "with mirrored views (here without) and with decoding argmax (here dice)" in earlier.calibration
    path = run.root / CALIBRATION_NAME
    own = read_document(path, QualityCalibration).model_copy(update={"mirroring": False, "decoding": "dice"})
    write_document(path, own)
    report = read(predict(run, images, options=None))
    assert report.calibration == calibration.describe()
    assert all(found.dice is not None for case in report.cases for found in case.classes.values())
    other = read(predict(run, images, "other", options=None, mirroring=True))
    assert "predictions without mirrored views (here with); " in other.calibration
    assert other.cases[0].classes[PLAN.labels.class_names[0]].dice is None


def test_a_folder_is_continued_and_only_what_was_predicted_is_in_it(run, images):
    out = predict(run, images / "case1_0000.nii.gz")
    first = read(out).cases
    assert [case.name for case in first] == ["case1"]
    predict(run, images)
    assert [case.name for case in read(out).cases] == ["case0", "case1", "case2"]
    assert read(out).cases[1] == first[0]
    (out / "case0.nii.gz").unlink()
    predict(run, images / "case2_0000.nii.gz")
    assert [case.name for case in read(out).cases] == ["case1", "case2"]


def test_a_killed_prediction_leaves_the_estimates_of_its_finished_cases(run, images, monkeypatch):
    monkeypatch.setattr(quality_files, "merge_quality", None)
    with monkeypatch.context() as patch:
        patch.setattr(
            "autoseg.workflows.predict.prediction.merge_quality",
            lambda *args, **kwargs: QualityReport(autoseg_version="", model="", calibration="", volume_unit="ml"),
        )
        out = predict(run, images)
    monkeypatch.undo()
    assert not (out / "quality.json").exists()
    with (out / LINES_NAME).open("a") as lines:
        lines.write('{"name": "case2", "la')  # cut off
    predict(run, images)
    assert [case.name for case in read(out).cases] == ["case0", "case1", "case2"]
    assert not (out / LINES_NAME).exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", ["{", '{"mine": 1}'])
def test_a_file_that_no_prediction_wrote_is_refused_before_anything_changes(run, images, *, content, overwrite):
    out = run.root.parent / "out"
    out.mkdir()
    (out / "quality.json").write_text(content)
    with pytest.raises(DocumentError, match=r"quality\.json cannot be continued; move it away or remove it"):
        predict(run, images, overwrite=overwrite)
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["quality.json"]
    assert (out / "quality.json").read_text() == content


def test_another_model_leaves_no_estimate_of_the_earlier_one(run, images):
    out = predict(run, images)
    write_trained_fold(run.root, PLAN, "3d_fullres", fold="0", seed=9)
    predict(run, images / "case1_0000.nii.gz", overwrite=True)
    assert [case.name for case in read(out).cases] == ["case1"]


def test_a_case_whose_files_would_replace_it_is_refused(tmp_path):
    write_trained_fold(tmp_path / "run", PLAN.model_copy(update={"file_ending": ".tif"}), "3d_fullres", fold="0")
    image = np.random.default_rng(0).normal(size=GRID.shape_voxels).astype(np.float32)
    write_image(tmp_path / "images" / "quality_0000.tif", image, grid=GRID)
    with pytest.raises(RunError, match=r"quality\.json has another meaning there"):
        predict(RunFolder(tmp_path / "run"), tmp_path / "images")


def test_an_exported_model_takes_its_calibration_along(run, calibration, images, tmp_path):
    export_model(run.root, tmp_path / "model.zip", ExportRequest(format="autoseg"), progress=SilentProgress())
    unpack_model_file(tmp_path / "model.zip", tmp_path / "copy")
    report = read(predict(RunFolder(tmp_path / "copy"), images, "of_copy"))
    assert report.calibration == calibration.describe()
    assert report.cases == read(predict(run, images)).cases
    content = json.loads((tmp_path / "copy" / CALIBRATION_NAME).read_text())
    assert len(content["weights_sha256"]) == 1


def test_a_prediction_beside_another_keeps_the_estimate_whose_label_map_is_about_to_come(run, images, monkeypatch):
    add, others = quality_files.add_quality, ["case1", "case2"]

    def add_beside_others(out, quality):
        add(out, quality)
        if others:
            predict(run, images / f"{others.pop()}_0000.nii.gz")

    monkeypatch.setattr(image_steps, "add_quality", add_beside_others)
    out = predict(run, images / "case0_0000.nii.gz")
    assert [case.name for case in read(out).cases] == ["case0", "case1", "case2"]
    assert not (out / LINES_NAME).exists()
