"""Prediction with what was selected: models, folds, postprocessing; and when it is refused or left aside."""

import hashlib

import numpy as np
import pytest
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan
from builders.progress import Notes
from builders.selections import build_prediction_choice, build_selection

from autoseg.document import read_document, write_document
from autoseg.errors import RunError, SelectionError
from autoseg.geometry import Grid
from autoseg.inference.ensemble import MemberChoice, load_ensemble
from autoseg.inference.model import load_model
from autoseg.inference.options import PredictionOptions
from autoseg.postprocessing.application import postprocess_label_map
from autoseg.postprocessing.rules import keep_largest_foreground, require_minimum_size
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_image, read_label_map, write_image
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.prediction_folder import PredictionRecord
from autoseg.workflows.select.selection_document import Member, Selection

GRID = Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.5, 1.0))
OPTIONS = PredictionOptions(mirroring=False)


@pytest.fixture
def plan():
    configurations = {
        "3d_fullres": build_configuration((8, 8, 8)),
        "3d_lowres": build_configuration((8, 8, 8), spacing_mm=(2.0, 2.0, 2.0)),
    }
    return build_plan(configurations)


@pytest.fixture
def run(tmp_path, plan):
    for configuration, fold, seed in (("3d_fullres", "0", 0), ("3d_fullres", "1", 1), ("3d_lowres", "0", 2)):
        write_trained_fold(tmp_path / "run", plan, configuration, fold=fold, seed=seed)
    return RunFolder(tmp_path / "run")


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for index in range(2):
        image = random.normal(size=GRID.shape_voxels).astype(np.float32)
        write_image(tmp_path / "images" / f"case{index}_0000.nii.gz", image, grid=GRID)
    return tmp_path / "images"


@pytest.fixture
def write_selection():
    """Selects folds of configurations, and rules that change the noise which these networks predict."""

    def write(run, plan, members):
        rules = (keep_largest_foreground(plan.labels), require_minimum_size(plan.labels, 1, 20.0))
        chosen = tuple(
            Member(
                configuration=configuration,
                folds=folds,
                weights_sha256=tuple(
                    hashlib.sha256(run.fold(configuration, fold).final_checkpoint.read_bytes()).hexdigest()
                    for fold in folds
                ),
            )
            for configuration, folds in members.items()
        )
        write_document(run.selection, build_selection(chosen, rules))
        return rules

    return write


def predict(run, images, out="out", progress=None, **choices):
    folder = run.root.parent / out
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32", **choices)
    predict_images(run.root, images, folder, request=request, progress=progress or SilentProgress())
    return folder


def compute(run, images, index, **choices):
    model = load_model(run, device="cpu", precision="float32", **choices)
    volume = read_image([images / f"case{index}_0000.nii.gz"])
    return model.predict_volume(volume.array, volume.grid, options=OPTIONS)


def read(folder, index):
    return read_label_map(folder / f"case{index}.nii.gz").array


def test_selected_models_and_postprocessing_are_used_and_recorded(run, plan, images, write_selection):
    rules = write_selection(run, plan, {"3d_lowres": ("0",)})
    notes = Notes()
    out = predict(run, images, progress=notes)
    is_changed = False
    for index in range(2):
        raw = compute(run, images, index, configuration="3d_lowres")
        expected = postprocess_label_map(raw, rules, labels=plan.labels, spacing_mm=GRID.spacing_mm)
        np.testing.assert_array_equal(read(out, index), expected)
        is_changed |= bool((raw != expected).any())
    assert is_changed
    record = read_document(out / "prediction.json", PredictionRecord)
    assert (record.configuration, record.folds, record.ensemble) == ("3d_lowres", ("0",), ())
    assert record.postprocessing == rules
    assert "as selection.json says: 3d_lowres (fold 0)" in notes.text
    assert (
        "postprocessing: keep the largest component of foreground; remove components of tumour below 20" in notes.text
    )


def test_a_selected_pair_is_averaged_without_files_of_probabilities(run, plan, images, write_selection):
    members = {"3d_lowres": ("0",), "3d_fullres": ("0", "1")}
    rules = write_selection(run, plan, members)
    out = predict(run, images)
    choices = [MemberChoice(configuration=name, folds=folds) for name, folds in members.items()]
    ensemble = load_ensemble(run, choices, device="cpu", precision="float32")
    volume = read_image([images / "case1_0000.nii.gz"])
    averaged = ensemble.predict_volume(volume.array, volume.grid, options=OPTIONS)
    expected = postprocess_label_map(averaged, rules, labels=plan.labels, spacing_mm=GRID.spacing_mm)
    np.testing.assert_array_equal(read(out, 1), expected)
    documents = {"plan.json", "prediction.json", "quality.json"}
    assert {path.name for path in out.iterdir()} == {"case0.nii.gz", "case1.nii.gz", *documents}


def test_without_postprocessing_the_models_are_still_the_selected_ones(run, plan, images, write_selection):
    write_selection(run, plan, {"3d_lowres": ("0",)})
    notes = Notes()
    out = predict(run, images, postprocessing=False, progress=notes)
    np.testing.assert_array_equal(read(out, 0), compute(run, images, 0, configuration="3d_lowres"))
    assert "no postprocessing, although 2 rules were accepted" in notes.text
    with pytest.raises(RunError, match="postprocessing: none there, keep the largest component of foreground; remove"):
        predict(run, images)


@pytest.mark.parametrize("choice", [{"configuration": "3d_lowres"}, {"folds": ("0",)}])
def test_a_named_configuration_or_fold_leaves_the_selection_aside_and_says_so(
    run, plan, images, choice, *, write_selection
):
    write_selection(run, plan, {"3d_fullres": ("0", "1")})
    notes = Notes()
    out = predict(run, images, progress=notes, **choice)
    np.testing.assert_array_equal(read(out, 1), compute(run, images, 1, **choice))
    assert read_document(out / "prediction.json", PredictionRecord).postprocessing == ()
    assert "selection.json is not used, as a configuration or fold is named" in notes.text


def test_models_that_were_trained_again_are_noticed(run, plan, images, *, write_selection):
    write_selection(run, plan, {"3d_fullres": ("0", "1")})
    write_trained_fold(run.root, plan, "3d_fullres", fold="1", seed=7)
    with pytest.raises(SelectionError, match=r"chose 3d_fullres .*was trained again since; .*autoseg select"):
        predict(run, images)
    assert not (run.root.parent / "out").exists()
    predict(run, images, configuration="3d_fullres")
    run.fold("3d_fullres", "1").final_checkpoint.unlink()
    with pytest.raises(SelectionError, match="lacks fold 1 since"):
        predict(run, images, out="other")


def test_folds_that_were_trained_later_are_not_used_and_named(run, plan, images, write_selection):
    write_selection(run, plan, {"3d_fullres": ("0",)})
    notes = Notes()
    out = predict(run, images, progress=notes)
    assert read_document(out / "prediction.json", PredictionRecord).folds == ("0",)
    assert "3d_fullres: the selection was made without fold 1, so that is not used" in notes.text


def test_a_folder_is_continued_only_with_the_same_postprocessing(run, plan, images, write_selection):
    write_selection(run, plan, {"3d_lowres": ("0",)})
    out = predict(run, images)
    (out / "case1.nii.gz").unlink()
    predict(run, images)
    assert (out / "case1.nii.gz").is_file()
    selection = read_document(run.selection, Selection)
    changed = selection.postprocessing.model_copy(update={"rules": selection.postprocessing.rules[:1]})
    write_document(run.selection, selection.model_copy(update={"postprocessing": changed}))
    with pytest.raises(RunError, match=r"postprocessing: keep the largest component of foreground; remove .* there"):
        predict(run, images)


@pytest.fixture
def selected(run, plan, write_selection):
    """The run with a selected model that predicts without mirrored views and decodes by the expected Dice."""
    write_selection(run, plan, {"3d_lowres": ("0",)})
    choice = build_prediction_choice((), mirroring=False, decoding="dice")
    selection = read_document(run.selection, Selection)
    write_document(run.selection, selection.model_copy(update={"prediction": choice}))
    return run


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, PredictionOptions(mirroring=False, decoding="dice")),
        ({"mirroring": True}, PredictionOptions(decoding="dice")),
        ({"decoding": "argmax", "step_fraction": 1.0}, PredictionOptions(mirroring=False, step_fraction=1.0)),
        ({"options": PredictionOptions()}, PredictionOptions()),
        ({"configuration": "3d_lowres"}, PredictionOptions()),
        ({"configuration": "3d_lowres", "decoding": "dice"}, PredictionOptions(decoding="dice")),
    ],
)
def test_options_that_were_selected_are_used_unless_the_user_names_others(selected, images, changes, expected):
    run = selected
    notes, folder = Notes(), run.root.parent / "out"
    request = PredictionRequest(device="cpu", precision="float32", postprocessing=False, **changes)
    predict_images(run.root, images, folder, request=request, progress=notes)
    record = read_document(folder / "prediction.json", PredictionRecord)
    assert (record.mirroring, record.step_fraction) == (expected.mirroring, expected.step_fraction)
    assert (record.decoding, record.budget_seconds, record.given_up) == (expected.decoding, None, ())
    model = load_model(run, device="cpu", precision="float32", configuration="3d_lowres", folds=("0",))
    volume = read_image([images / "case0_0000.nii.gz"])
    found = model.predict_volume(volume.array, volume.grid, options=expected)
    np.testing.assert_array_equal(read(folder, 0), found)
    assert ("no mirroring: " in notes.text) == ("configuration" not in changes)


def test_a_selection_without_measured_options_predicts_as_before(run, plan, images, write_selection):
    write_selection(run, plan, {"3d_lowres": ("0",)})
    assert read_document(run.selection, Selection).prediction is None
    assert PredictionRequest().choose_options(PredictionOptions()) == PredictionOptions()
    request, folder = PredictionRequest(device="cpu", precision="float32"), run.root.parent / "out"
    predict_images(run.root, images, folder, request=request, progress=SilentProgress())
    record = read_document(folder / "prediction.json", PredictionRecord)
    assert (record.mirroring, record.step_fraction, record.decoding) == (True, 0.5, "argmax")


def test_a_folder_is_not_continued_with_another_decoding(run, plan, images, write_selection):
    write_selection(run, plan, {"3d_lowres": ("0",)})
    predict(run, images)
    with pytest.raises(RunError, match="decoding: argmax there, dice now"):
        predict(run, images, decoding="dice")
