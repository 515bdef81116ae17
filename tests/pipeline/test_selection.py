"""Choosing a pair of configurations and postprocessing, and predicting with them, through the command line."""

import hashlib
import json
import shutil
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.balls import make_case, save
from builders.command_line import run_autoseg
from builders.plans import shorten

import autoseg
from autoseg.document import read_document
from autoseg.inference.model import load_model
from autoseg.plan import Plan
from autoseg.postprocessing.application import postprocess_label_map
from autoseg.preprocessing.cache import open_case
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_image, read_label_map
from autoseg.workflows.select.selection_document import Selection

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # four trainings, each with the start of its processes

PAIR = ("2d", "3d_fullres")


@pytest.fixture(scope="module")
def two_models(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations, each trained on two folds, all of them badly."""
    run = tmp_path_factory.mktemp("selection") / "run"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("models", "logs", "crossvalidation.*"))
    halves = (["case0", "case1", "case2"], ["case3", "case4", "case5"])
    folds = [{"training": halves[1 - index], "validation": halves[index]} for index in (0, 1)]
    (run / "splits.json").write_text(json.dumps({"schema_version": 1, "folds": folds}))
    for configuration in PAIR:
        shorten(run, configuration, epochs=3, iterations=20)
    for configuration, fold in product(PAIR, (0, 1)):
        chosen = ("--configuration", configuration, "--fold", fold)
        done = run_autoseg("train", run, *chosen, "--device", "cpu", "--workers", 0)
        assert done.code == 0, done.out + done.err
    return run


@pytest.fixture(scope="module")
def selected(two_models: Path) -> tuple[Path, str]:
    done = run_autoseg("select", two_models, "--no-variants", "--device", "cpu")
    assert done.code == 0, done.out + done.err
    return two_models, done.out


def read_selection(run: Path) -> Selection:
    return read_document(RunFolder(run).selection, Selection)


def average(run: Path, image: Path, folds: tuple[str, ...]) -> np.ndarray:
    """Probabilities averaged over both configurations, by the Python API."""
    volume = read_image([image])
    models = [autoseg.load_model(run, configuration=name, folds=folds, device="cpu") for name in PAIR]
    probabilities = [model.predict_probabilities(volume.array, volume.grid) for model in models]
    mean: np.ndarray = (probabilities[0] + probabilities[1]) / 2
    return mean


def test_three_candidates_are_compared_on_all_held_out_cases(selected: tuple[Path, str]) -> None:
    run, out = selected
    assert "1 pair of configurations: 6 held-out cases to predict once more with each of 2d, 3d_fullres" in out
    selection = read_selection(run)
    assert {candidate.name for candidate in selection.candidates} == {"2d", "3d_fullres", "2d + 3d_fullres"}
    means = [candidate.foreground.mean for candidate in selection.candidates]
    assert means == sorted(means, reverse=True)
    assert [member.configuration for member in selection.members] == list(selection.candidates[0].configurations)
    assert selection.because in out
    assert len(selection.cases) == 6
    assert "keep the largest component of foreground" in out
    accepted = [step.rule for step in selection.postprocessing.steps if step.accepted]
    assert list(selection.postprocessing.rules) == accepted


def test_held_out_cases_of_a_pair_are_predicted_by_the_networks_that_did_not_see_them(
    selected: tuple[Path, str],
) -> None:
    run, _ = selected
    for case, fold in (("case1", "0"), ("case4", "1")):
        volumes = []
        for name in PAIR:
            model = load_model(run, configuration=name, folds=(fold,), device="cpu")
            cached = open_case(RunFolder(run).preprocessed(model.configuration_plan.data_of), case)
            volumes.append(model.restore_probabilities(model.predict_preprocessed(cached.image[:]), cached.geometry))
        expected = model.plan.labels.decode(((volumes[0] + volumes[1]) / 2).argmax(axis=0).astype(np.int16))
        found = read_label_map(run / "ensembles" / "2d+3d_fullres" / f"{case}.nii.gz").array
        np.testing.assert_array_equal(found, expected)


def test_select_continues_and_predicts_anew_what_other_weights_made(selected: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(selected[0], run)
    folder = run / "ensembles" / "2d+3d_fullres"
    (folder / "case2.nii.gz").unlink()
    record = json.loads((folder / "case5.source.json").read_text())
    record["sources"][0]["weights_sha256"] = "of another training"
    (folder / "case5.source.json").write_text(json.dumps(record))
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}
    done = run_autoseg("select", run, "--no-variants", "--device", "cpu")
    assert done.code == 0, done.err
    assert "2 held-out cases to predict once more with each of 2d, 3d_fullres, 4 are there from earlier" in done.out
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}
    assert {name for name in after if after[name] != before.get(name)} == {"case2.nii.gz", "case5.nii.gz"}
    assert read_selection(run) == read_selection(selected[0])


def test_pairs_are_left_out_on_request(selected: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(selected[0], run, ignore=shutil.ignore_patterns("ensembles"))
    done = run_autoseg("select", run, "--no-ensembles", "--fold", "1")
    assert done.code == 0, done.err
    assert not (run / "ensembles").exists()
    selection = read_selection(run)
    assert len(selection.candidates) == 2
    assert selection.cases == ("case3", "case4", "case5")
    assert selection.members[0].folds == ("1",)


def test_prediction_with_a_pair_and_postprocessing_equals_a_direct_computation(
    selected: tuple[Path, str], tmp_path: Path
) -> None:
    """The pair is chosen by hand here: which candidate wins after sixty iterations is of no interest."""
    run = tmp_path / "run"
    shutil.copytree(selected[0], run)
    path = run / "selection.json"
    content = json.loads(path.read_text())
    plan = read_document(RunFolder(run).plan, Plan)
    content["members"] = [describe_member(run, name) for name in PAIR]
    content["postprocessing"]["rules"] = [
        {"kind": "largest_component", "name": "bright", "values": [2]},
        {"kind": "minimum_size", "name": "dark", "values": [5], "minimum_mm3": 5000.0},
        {"kind": "fill_holes", "name": "bright", "values": [2], "fill_value": 2},
    ]
    path.write_text(json.dumps(content))
    image, _ = make_case(300)
    noisy = image + np.random.default_rng(0).normal(0, 15, image.shape).astype(np.float32)
    save(tmp_path / "images" / "new_0000.nii.gz", noisy)
    arguments = ("predict", run, tmp_path / "images")
    done = run_autoseg(*arguments, tmp_path / "out", "--device", "cpu", "--save-probabilities")
    assert done.code == 0, done.err
    assert "as selection.json says: 2d (folds 0, 1) + 3d_fullres (folds 0, 1)" in done.out
    mean = average(run, tmp_path / "images" / "new_0000.nii.gz", ("0", "1"))
    raw = plan.labels.decode(mean.argmax(axis=0).astype(np.int16))
    rules = read_selection(run).postprocessing.rules
    volume = read_image([tmp_path / "images" / "new_0000.nii.gz"])
    expected = postprocess_label_map(raw, rules, labels=plan.labels, spacing_mm=volume.grid.spacing_mm)
    np.testing.assert_array_equal(read_label_map(tmp_path / "out" / "new.nii.gz").array, expected)
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert record["configuration"] == "2d + 3d_fullres"
    assert [member["configuration"] for member in record["ensemble"]] == list(PAIR)
    assert len(record["weights_sha256"]) == 4
    assert [rule["kind"] for rule in record["postprocessing"]] == ["largest_component", "minimum_size", "fill_holes"]
    plain = run_autoseg(*arguments, tmp_path / "plain", "--device", "cpu", "--no-postprocessing")
    assert plain.code == 0, plain.err
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "plain" / "new.nii.gz").dataobj).T, raw)
    assert set(np.unique(raw)) == {0, 2, 5}
    assert (raw != expected).any()


def describe_member(run: Path, configuration: str) -> dict[str, object]:
    """What select writes about one configuration."""
    paths = [run / "models" / configuration / f"fold_{fold}" / "checkpoint_final.safetensors" for fold in (0, 1)]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return {"configuration": configuration, "folds": ["0", "1"], "weights_sha256": digests}
