"""Objects from the plan to tables and scores, by a network that was hardly trained."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from builders.command_line import run_autoseg
from builders.objects import write_cells
from builders.plans import shorten

import autoseg
from autoseg.cli.terminal.console import open_console
from autoseg.cli.terminal.reports import print_selection
from autoseg.dataset import read_dataset, tell_instances_apart
from autoseg.document import read_document, write_document
from autoseg.errors import EvaluationError, ExchangeError, PlanError, PredictionError, RunError, VolumeError
from autoseg.exchange.nnunet_limits import describe_export_limits
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Grid
from autoseg.plan import Plan
from autoseg.postprocessing.object_table import format_rows
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map
from autoseg.workflows.evaluate.objects import evaluate_objects
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.plan.planning import preprocess_run
from autoseg.workflows.predict.objects import build_object_finder
from autoseg.workflows.predict.prediction import PredictionRequest
from autoseg.workflows.report.objects import TABLE_PROBLEMS
from autoseg.workflows.report.predicted_cases import read_predictions
from autoseg.workflows.select.selection import SelectionRequest
from autoseg.workflows.select.selection_document import Selection
from autoseg.workflows.train.request import TrainingRequest
from planners import PLANNERS

FRACTION = 0.25
CPU = PredictionRequest(device="cpu", execution="eager", precision="float32")


@dataclass(slots=True)
class Notes(SilentProgress):
    """Keeps the notes."""

    lines: list[str]

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("data") / "Dataset001_Cells", cases=6)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planned, a fold of three cases trained briefly, and selected."""
    run = tmp_path_factory.mktemp("runs") / "cells.autoseg"
    autoseg.plan_dataset(dataset, run, planner=PLANNERS["default"], border_fraction=FRACTION, workers=1)
    names = [case.name for case in read_dataset(dataset).cases]
    folds = {"schema_version": 1, "folds": [{"training": names[:3], "validation": names[3:]}]}
    (run / "splits.json").write_text(json.dumps(folds))
    shorten(run, "2d", epochs=1, iterations=8)
    autoseg.train_run(run, TrainingRequest(folds=("0",), device="cpu", workers=0))
    autoseg.select_models(run, SelectionRequest(device="cpu", variants=False))
    return run


@pytest.fixture(scope="module")
def predicted(dataset: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    assert autoseg.predict_images(run, dataset / "imagesTr", out, CPU).written == 6
    return out


def read_plan(run: Path) -> Plan:
    return read_document(RunFolder(run).plan, Plan)


def test_plan_has_core_and_border_of_each_class_and_says_why(run: Path, dataset: Path) -> None:
    plan = read_plan(run)
    assert plan.labels.class_names == ("cell_core", "cell_border")
    assert plan.dataset_labels == read_dataset(dataset).labels
    assert plan.configurations["2d"].network.output_channels == 3
    (reason,) = [reason for reason in plan.reasons if reason.subject == "instances"]
    assert "farther from its surface than 0.25" in reason.because
    references = RunFolder(run).references
    assert np.unique(read_label_map(references / "case0.nii.gz").array).tolist() == [0, 1, 2]
    numbers = read_label_map(references / "instances" / "case0.nii.gz").array
    assert np.unique(numbers).tolist() == [0, 5, 9, 70_000]


def test_plan_without_the_task_is_that_of_the_label_maps_and_tells_of_it(dataset: Path, tmp_path: Path) -> None:
    notes = Notes(lines=[])
    chosen = {"planner": PLANNERS["default"], "workers": 1, "progress": notes}
    plan = autoseg.plan_dataset(dataset, tmp_path / "usual", **chosen)
    shutil.rmtree(dataset.parent / "without", ignore_errors=True)
    without = shutil.copytree(dataset, dataset.parent / "without" / dataset.name)
    shutil.rmtree(without / "instancesTr")
    assert plan.instances is None
    assert autoseg.plan_dataset(without, tmp_path / "without", planner=PLANNERS["default"], workers=1) == plan
    assert [line for line in notes.lines if "--task instances" in line] == [
        "instancesTr numbers the objects of every case: plan with --task instances to predict each by itself"
    ]
    with pytest.raises(RunError, match="--task"):
        autoseg.plan_dataset(dataset, tmp_path / "usual", border_fraction=FRACTION, **chosen)


def test_instances_of_the_plan_cannot_be_edited_and_whole_arrays_are_kept(run: Path, tmp_path: Path) -> None:
    assert preprocess_run(run, configurations=(), workers=1, progress=SilentProgress()) == 0
    other = shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("models"))
    content = json.loads(RunFolder(other).plan.read_text())
    content["instances"]["border_fraction"] = 0.5
    RunFolder(other).plan.write_text(json.dumps(content))
    with pytest.raises(PlanError, match="instances was changed since the run was planned"):
        preprocess_run(other, configurations=(), workers=1, progress=SilentProgress())


def test_labels_of_the_plan_must_be_those_of_its_instances(run: Path) -> None:
    content = json.loads(RunFolder(run).plan.read_text())
    content["instances"]["labels"]["classes"][0]["name"] = "other"
    with pytest.raises(ValueError, match="core and border of each class in instances"):
        Plan.model_validate(content)


def test_selection_has_a_rule_for_each_class_and_no_other_postprocessing(run: Path) -> None:
    selection = read_document(RunFolder(run).selection, Selection)
    assert selection.objects is not None
    (rule,) = selection.objects.rules
    assert (rule.name, rule.value) == ("cell", 1)
    assert selection.postprocessing.rules == selection.postprocessing.steps == ()
    (candidate,) = selection.candidates
    assert candidate.objects is not None
    assert list(candidate.objects.classes) == ["cell"]
    mean = candidate.objects.foreground.mean
    assert selection.because == f"2d is the only candidate: mean AP of objects {mean:.4f} over 3 held-out cases"
    assert selection.objects.scores["cell"].expected == selection.objects.components["cell"].expected == 9


def test_a_report_counts_the_objects_of_the_tables(run: Path, predicted: Path) -> None:
    found = read_predictions(predicted, read_plan(run), read_document(RunFolder(run).fingerprint, Fingerprint))
    with (predicted / "objects.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert {case.name: case.objects["cell"] for case in found.cases} == {
        f"case{index}": sum(row["case"] == f"case{index}" for row in rows) for index in range(6)
    }
    assert not any(concern in TABLE_PROBLEMS for case in found.cases for concern in case.concerns)
    assert found.rules[0].startswith("objects of cell grow from cores")
    assert len(found.compared) == 6


def test_rules_and_scores_are_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_selection(open_console(), read_document(RunFolder(run).selection, Selection))
    out = " ".join(capsys.readouterr().out.split())
    assert "objects of cell grow from cores of at least 0." in out
    assert "connected components of cell: AP50" in out
    assert "AP of objects" in out


def test_results_in_dicom_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"not in DICOM \(rtstruct\); leave out --format"):
        build_object_finder(read_plan(run), None, tmp_path, formats=("rtstruct",))


@pytest.mark.parametrize(("count", "kind"), [(65_535, "uint16"), (65_536, "int32")])
def test_numbers_take_as_many_bits_as_they_need(run: Path, tmp_path: Path, count: int, kind: str) -> None:
    finder = build_object_finder(read_plan(run), None, tmp_path, formats=())
    assert finder is not None
    numbers = np.arange(1 + 65_536, dtype=np.int32).clip(0, count).reshape(1, 1, -1)
    objects = (np.zeros(numbers.shape, np.uint8), numbers, ())
    grid = Grid(shape_voxels=(1, 1, 65_537), spacing_mm=(1.0, 1.0, 1.0))
    finder.write("many.tif", objects, grid)
    assert str(tifffile.imread(tmp_path / "instances" / "many.tif").dtype) == kind
    assert read_label_map(tmp_path / "instances" / "many.tif").array.max() == count
    if kind == "int32":
        with pytest.raises(VolumeError, match="0 to 65535"):
            finder.write("many.png", objects, grid)


def test_prediction_writes_classes_numbers_and_a_table(predicted: Path, dataset: Path) -> None:
    rows = list(csv.DictReader((predicted / "objects.csv").read_text().splitlines()))
    for case in read_dataset(dataset).cases:
        classes = read_label_map(predicted / f"{case.name}.nii.gz")
        numbers = read_label_map(predicted / "instances" / f"{case.name}.nii.gz")
        assert classes.grid == numbers.grid == read_label_map(case.label_path).grid
        assert np.array_equal(classes.array > 0, numbers.array > 0)
        assert set(np.unique(classes.array)) <= {0, 1}
        own = [row for row in rows if row["case"] == case.name]
        assert [int(row["object"]) for row in own] == list(range(1, 1 + numbers.array.max()))
        assert [int(row["voxels"]) for row in own] == np.bincount(numbers.array.ravel())[1:].tolist()
    assert rows


def test_what_is_missing_is_made_again_and_old_tables_go_with_their_images(
    run: Path, dataset: Path, predicted: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(predicted, tmp_path / "out")
    table = (out / "objects.csv").read_text()
    (out / "instances" / "case2.nii.gz.csv").unlink()
    assert autoseg.predict_images(run, dataset / "imagesTr", out, CPU).written == 1
    assert (out / "objects.csv").read_text() == table
    one = tmp_path / "images"
    one.mkdir()
    shutil.copy(dataset / "imagesTr" / "case4_0000.nii.gz", one)
    (out / "instances" / "mine.nii.gz").write_bytes(b"corrected by hand")
    (out / "instances" / "mine.csv").write_text("rows of another table\n")
    again = PredictionRequest(device="cpu", execution="eager", precision="float32", overwrite=True)
    autoseg.predict_images(run, one, out, again)
    assert (out / "instances" / "mine.nii.gz").read_bytes() == b"corrected by hand"
    assert "another table" not in (out / "objects.csv").read_text()


def test_a_map_of_numbers_that_was_corrected_by_hand_is_not_replaced(
    run: Path, dataset: Path, predicted: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(predicted, tmp_path / "out")
    again = replace(CPU, overwrite=True)
    path = out / "instances" / "case1.nii.gz"
    image = nib.load(path)
    numbers = np.asarray(image.dataobj).copy()
    numbers[tuple(place[0] for place in np.nonzero(numbers))] = 0  # one voxel less
    nib.save(nib.Nifti1Image(numbers, image.affine, image.header), path)
    content = path.read_bytes()
    with pytest.raises(RunError, match=r"replaced although they were changed since they were predicted: case1\.nii"):
        autoseg.predict_images(run, dataset / "imagesTr", out, again)
    assert (out / "case1.nii.gz").is_file()
    (out / "case1.nii.gz").unlink()  # so that the image would be predicted once more
    with pytest.raises(RunError, match="changed since they were predicted"):
        autoseg.predict_images(run, dataset / "imagesTr", out, CPU)
    assert path.read_bytes() == content
    path.rename(tmp_path / "corrected.nii.gz")
    assert autoseg.predict_images(run, dataset / "imagesTr", out, again).written == 6


def test_numbers_of_a_bmp_are_written_as_png(run: Path, tmp_path: Path) -> None:
    finder = build_object_finder(read_plan(run), None, tmp_path, formats=())
    assert finder is not None
    numbers = np.arange(300, dtype=np.int32).reshape(1, 1, -1)
    grid = Grid(shape_voxels=(1, 1, 300), spacing_mm=(1.0, 1.0, 1.0))
    finder.write("gland.bmp", (np.zeros(numbers.shape, np.uint8), numbers, ()), grid)
    assert read_label_map(tmp_path / "instances" / "gland.png").array.tolist() == numbers.tolist()
    assert (tmp_path / "instances" / "gland.bmp.csv").is_file()


def test_other_rules_are_not_mixed_in_one_folder(run: Path, dataset: Path, predicted: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    content = json.loads(RunFolder(other).selection.read_text())
    content["objects"]["rules"][0] |= {"seed_threshold": 0.9, "minimum_mm3": 1.5}
    RunFolder(other).selection.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"objects of cell grow from cores of at least 0\.9, of at least 1\.5"):
        autoseg.predict_images(other, dataset / "imagesTr", shutil.copytree(predicted, tmp_path / "out"), CPU)


def test_objects_are_evaluated_beside_components(run: Path, dataset: Path, predicted: Path, tmp_path: Path) -> None:
    out = shutil.copytree(predicted, tmp_path / "out")
    for name in ("case0", "case1"):  # a perfect prediction of two
        shutil.copy(dataset / "labelsTr" / f"{name}.nii.gz", out)
        shutil.copy(dataset / "instancesTr" / f"{name}.nii.gz", out / "instances")
    given = {"run_root": run, "progress": SilentProgress()}
    found = evaluate_objects(out, dataset / "labelsTr", dataset / "instancesTr", **given)
    perfect = found.cases["case0"]
    assert perfect["instances"]["cell"].AP == 1.0
    assert perfect["components"]["cell"].model_dump(include={"matched", "predicted", "expected"}) == {
        "matched": 2 if perfect["components"]["cell"].matched == 2 else 1,  # one of two that touch may fill the half
        "predicted": 2,
        "expected": 3,
    }
    assert found.classes["instances"]["cell"].pooled.expected == 18
    lines = (out / "object_scores.csv").read_text().splitlines()
    assert len(lines) == 1 + 6 * 2
    (out / "instances" / "case3.nii.gz").unlink()
    with pytest.raises(EvaluationError, match="lacks the objects of 1 of 6 predictions, such as case3"):
        evaluate_objects(out, dataset / "labelsTr", dataset / "instancesTr", **given)
    shutil.rmtree(out / "instances")
    notes = Notes(lines=[])
    plain = evaluate_objects(out, dataset / "labelsTr", dataset / "instancesTr", run_root=run, progress=notes)
    assert list(plain.classes) == ["components"]
    assert plain.classes["components"] == found.classes["components"]
    assert "no folder instances" in notes.lines[0]


def test_model_file_carries_the_rule_and_the_labels(run: Path, dataset: Path, predicted: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.zip"
    autoseg.export_model(run, path, ExportRequest(format="autoseg"))
    out = tmp_path / "out"
    autoseg.predict_images(path, dataset / "imagesTr", out, CPU)
    assert (out / "objects.csv").read_text() == (predicted / "objects.csv").read_text()


def test_what_does_not_go_together_is_refused_by_name(run: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="nnU-Net has no counterpart of the task instances"):
        autoseg.export_model(run, tmp_path / "models")
    told = tell_instances_apart(read_dataset(dataset), FRACTION)
    assert "no counterpart of the task instances" in describe_export_limits(told)[0]


def test_models_in_python_predict_the_classes(run: Path, dataset: Path) -> None:
    from autoseg.volume_io import read_image

    model = autoseg.load_model(run, device="cpu")
    volume = read_image([dataset / "imagesTr" / "case0_0000.nii.gz"])
    assert set(np.unique(model.predict_volume(volume.array, volume.grid))) <= {0, 1}


def test_objects_in_python_are_those_that_the_command_writes(run: Path, dataset: Path, tmp_path: Path) -> None:
    model = autoseg.load_model(run, configuration="2d", folds=["0"], device="cpu", precision="float32")
    learned = read_document(RunFolder(run).selection, Selection).objects
    assert learned is not None
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(dataset / "imagesTr" / "case0_0000.nii.gz", images)
    special = tuple(rule.model_copy(update={"seed_threshold": 0.3}) for rule in learned.rules)
    other = shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("preprocessed"))
    selection = read_document(RunFolder(run).selection, Selection)
    changed = selection.model_copy(update={"objects": learned.model_copy(update={"rules": special})})
    write_document(RunFolder(other).selection, changed)
    usual = replace(CPU, configuration="2d", folds=("0",))
    for number, (source, request, rules) in enumerate(((run, usual, None), (other, CPU, special))):
        out = tmp_path / str(number)
        autoseg.predict_images(source, images, out, request)
        found = autoseg.predict_objects(model, images / "case0_0000.nii.gz", name="case0", rules=rules)
        paths = (out / "case0.nii.gz", out / "instances" / "case0.nii.gz")
        for own, path in zip(found[:2], paths, strict=True):
            written = nib.load(path)
            assert np.array_equal(np.asarray(own.dataobj), np.asarray(written.dataobj))
            assert own.get_data_dtype() == written.get_data_dtype()
            assert np.array_equal(own.affine, written.affine)
        assert format_rows(found[2]) == (out / "objects.csv").read_text()
    classes = autoseg.predict_volume(model, images / "case0_0000.nii.gz")
    assert np.array_equal(np.asarray(classes.dataobj), np.asarray(nib.load(tmp_path / "0" / "case0.nii.gz").dataobj))
    with pytest.raises(PredictionError, match="expected one for each class, cell, found none"):
        autoseg.predict_objects(model, images / "case0_0000.nii.gz", rules=())
    plain = replace(model, plan=model.plan.model_copy(update={"instances": None}))
    with pytest.raises(PredictionError, match="planned without --task instances"):
        autoseg.predict_objects(plain, images / "case0_0000.nii.gz")


def test_centre_distances_are_learned_and_selected_and_objects_have_estimates(dataset: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "centres.autoseg", tmp_path / "out"
    planner = PLANNERS["default"]
    plan = autoseg.plan_dataset(dataset, run, planner=planner, border_fraction=FRACTION, centre_steps=2, workers=1)
    assert plan.labels.class_names == ("cell_core", "cell_border", "cell_centre_2")
    assert [term.name for term in plan.configurations["2d"].training.losses][-1] == "centre_distance"
    names = [case.name for case in read_dataset(dataset).cases]
    folds = {"schema_version": 1, "folds": [{"training": names[:4], "validation": names[4:]}]}
    (run / "splits.json").write_text(json.dumps(folds))
    shorten(run, "2d", epochs=1, iterations=2)
    autoseg.train_run(run, TrainingRequest(folds=("0",), device="cpu", workers=0))
    selection = autoseg.select_models(run, SelectionRequest(device="cpu", variants=False))
    assert selection.objects is not None
    rules = tuple(rule.model_copy(update={"seeds": "centres"}) for rule in selection.objects.rules)
    objects = selection.objects.model_copy(update={"rules": rules})
    write_document(RunFolder(run).selection, selection.model_copy(update={"objects": objects}))
    assert autoseg.predict_images(run, dataset / "imagesTr", out, CPU).written == 6
    quality = json.loads((out / "quality.json").read_text())
    assert "no Dice, F1 or PQ is estimated: 2 held-out cases are too few" in quality["calibration"]
    rows = list(csv.DictReader((out / "objects.csv").read_text().splitlines()))
    for case in quality["cases"]:
        count = sum(row["case"] == case["name"] for row in rows)
        assert case["objects"] == {
            "cell": {"count": {"value": count, "low": None, "high": None}, "f1": None, "pq": None}
        }


def test_the_page_runs(run: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands but those that train and select, which the fixture did by the same functions, and its Python."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "instances.md"
    if not page.is_file():
        pytest.skip("needs the sources: pages are not installed")
    blocks = dict(re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    shutil.copytree(run, tmp_path / "cells.autoseg")
    for source, target in (("imagesTr", "new_images"), ("labelsTr", "new_labels"), ("instancesTr", "new_instances")):
        shutil.copytree(dataset / source, tmp_path / target)
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in blocks["sh"].splitlines()]
    assert [command[:2] for command in commands] == [
        ["autoseg", name] for name in ("plan", "train", "select", "predict", "evaluate")
    ]
    for command in (commands[0], *commands[3:]):
        place = dataset.parent if command[1] == "plan" else tmp_path
        arguments = [str(run) if command[1] == "plan" and word == "cells.autoseg" else word for word in command[1:]]
        done = run_autoseg(*arguments, cwd=place)
        assert done.code == 0, done.err
    assert "connected components" not in done.err
    exec(compile(blocks["python"], str(page), "exec"), {})
