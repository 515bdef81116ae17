"""Selection of, and prediction with, pruned networks, whose columns give one label everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_plan
from builders.preprocessing import preprocess_training_case
from builders.progress import Notes
from builders.threads import use_one_thread
from safetensors.torch import load_file, save_file

import autoseg
from autoseg.dataset.folds import Fold, Splits
from autoseg.document import read_document, write_document
from autoseg.errors import DocumentError, PlanError, PredictionError, RunError, SelectionError
from autoseg.exchange.model_file import unpack_model_file
from autoseg.geometry import Grid
from autoseg.inference import model as inference
from autoseg.inference.options import PredictionOptions
from autoseg.plan import Plan
from autoseg.plan.network.nested_u import NestedUPlan
from autoseg.preprocessing.cache import write_case
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.processes import case_pool
from autoseg.processes.progress import SilentProgress
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map, write_image, write_label_map
from autoseg.workflows.cases.network_features import StoredFeatures
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_jobs
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.plan.preprocessing import extract_recipe
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.prediction_folder import PredictionRecord
from autoseg.workflows.select import selection
from autoseg.workflows.select.candidates import ModelCandidate
from autoseg.workflows.select.held_out import HeldOut
from autoseg.workflows.select.pruning import PruningJob, find_smallest
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection import select_models
from autoseg.workflows.select.selection_document import Selection

GRID = Grid(shape_voxels=(2, 16, 10), spacing_mm=(1.0, 1.0, 1.0))
FOLDS = (("a", "b", "c"), ("d", "e", "f"))
CASES = tuple(case for fold in FOLDS for case in fold)
LIVER, TUMOUR = 5, 9
FILE_VALUES = (0, LIVER, TUMOUR)
TELLER = SilentProgress()

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation would start processes on several cores."""
    monkeypatch.setattr(case_pool, "count_usable_cpus", lambda: 1)


def build_nested_plan(*, mirror_axes: tuple[int, ...]) -> Plan:
    """Planes, and a nested network of two columns."""
    network = build_small_network_plan("nested_u", 2, input_channels=1)
    configuration = build_configuration((16, 8), data_of="2d", mirror_axes=mirror_axes)
    return build_plan({"2d": configuration.model_copy(update={"network": network})})


@pytest.fixture
def plan() -> Plan:
    """A plan without mirrored views."""
    return build_nested_plan(mirror_axes=())


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunFolder:
    """Six preprocessed cases with liver in half of the image, nothing trained."""
    run = RunFolder(tmp_path / "run")
    write_document(run.plan, plan)
    folds = tuple(Fold(training=FOLDS[1 - index], validation=validation) for index, validation in enumerate(FOLDS))
    write_document(run.splits, Splits(folds=folds))
    write_document(run.recipe("2d"), extract_recipe(plan, "2d"))
    for index, case in enumerate(CASES):
        label_map = np.zeros(GRID.shape_voxels, np.int16)
        label_map[:, :8] = 1
        image = np.random.default_rng(index).normal(size=(1, *GRID.shape_voxels)).astype(np.float32)
        done = preprocess_training_case(image, label_map, GRID, plan, configuration="2d")
        locations = find_class_locations(done.label_map, plan.labels)
        write_case(run.preprocessed("2d"), case, done, locations=locations, patch_voxels=(16, 8))
        write_label_map(run.references / f"{case}.nii.gz", LIVER * label_map.astype(np.uint8), grid=GRID, like=None)
    return run


def train(run: RunFolder, fold: str, *, pruned: int, whole: int) -> None:
    """Writes a network whose columns 1 and 2 give one label everywhere, and the validation of the whole network."""
    plan = read_document(run.plan, Plan)
    write_trained_fold(run.root, plan, "2d", fold=fold, seed=int(fold))
    path = run.fold("2d", fold).final_checkpoint
    weights = load_file(path)
    for column, label in ((1, pruned), (2, whole)):
        weights[f"network.heads.{column}.weight"].zero_()
        weights[f"network.heads.{column}.bias"] = torch.eye(3)[label]
    save_file(weights, path)
    validation, jobs = run.fold("2d", fold).validation, []
    for case in read_document(run.splits, Splits).folds[int(fold)].validation:
        prediction, reference = validation / f"{case}.nii.gz", run.references / f"{case}.nii.gz"
        label_map = np.full(GRID.shape_voxels, FILE_VALUES[whole], np.uint8)
        write_label_map(prediction, label_map, grid=GRID, like=None)
        jobs.append(EvaluationJob(case=case, prediction=prediction, reference=reference, labels=plan.labels))
    evaluate_jobs(jobs, folder=validation, progress=TELLER)


def select(run: RunFolder, progress: SilentProgress = TELLER) -> Selection:
    chosen = select_models(run.root, SelectionRequest(device="cpu", variants=False), progress=progress)
    assert chosen == read_document(run.selection, Selection)
    return chosen


@pytest.fixture
def pruned(run: RunFolder) -> RunFolder:
    """A run in which the first column is selected: it finds the liver, the last one a tumour."""
    for fold in ("0", "1"):
        train(run, fold, pruned=1, whole=2)
    assert select(run).members[0].pruned_depth == 1
    return run


@pytest.mark.parametrize(
    ("dice", "smallest"),
    [
        ((0.8, 0.81, 0.811), 1),
        ((0.8091, 0.81, 0.811), 0),
        ((0.7, 0.7, 0.811), 2),
        ((0.7, 0.83, 0.811), 1),
        ((0.8, 0.8, 0.8), 0),
    ],
)
def test_the_smallest_network_is_kept_whose_dice_is_within_two_thousandths_of_the_best(
    dice: tuple[float, ...], smallest: int
) -> None:
    assert find_smallest(dice) == smallest


@pytest.mark.parametrize(("columns", "depth"), [((1, 1), 1), ((1, 0), 1), ((0, 1), None)])
def test_select_prunes_where_a_smaller_network_is_as_good(
    run: RunFolder, columns: tuple[int, int], depth: int | None
) -> None:
    for fold in ("0", "1"):
        train(run, fold, pruned=columns[0], whole=columns[1])
    notes = Notes()
    chosen = select(run, notes)
    assert chosen.members[0].pruned_depth == depth
    assert "2d, pruned to depth 1: 6 held-out cases to predict with each" in notes.lines
    for name, column in (("2d, pruned to depth 1", columns[0]), ("2d", columns[1])):
        assert f"{name}: mean Dice {2 / 3 if column else 0:.4f}, " in notes.text
    names = [candidate.name for candidate in chosen.candidates]
    assert names == (["2d"] if depth is None else ["2d, pruned to depth 1", "2d"])
    assert chosen.name == names[0]
    assert ("depth 1 is the smallest" in chosen.because) == (depth is not None)
    assert chosen.postprocessing.before.mean == pytest.approx(2 / 3)  # learned on what will predict


def test_quality_is_calibrated_on_features_of_the_pruned_networks_with_the_chosen_options(run: RunFolder) -> None:
    notes = Notes()
    write_document(run.plan, build_nested_plan(mirror_axes=(0,)))
    for fold in ("0", "1"):
        train(run, fold, pruned=1, whole=2)
    chosen = select_models(run.root, SelectionRequest(device="cpu"), progress=notes)
    assert (chosen.members[0].pruned_depth, chosen.options.mirroring) == (1, False)
    assert "predicted once more" not in notes.text
    calibration = read_document(run.root / CALIBRATION_NAME, QualityCalibration)
    assert (calibration.mirroring, calibration.cases) == (False, 6)
    folder = run.root / "variants" / "2d_depth_1" / "no_mirroring_step_0.5_argmax"
    stored = [read_document(path, StoredFeatures) for path in sorted(folder.glob("*.features.json"))]
    assert [entry.pruned_depth for entry in stored] == [1] * 6
    assert stored[0].features.probabilities[1] is None  # tumours, which the whole networks find


def test_what_a_depth_costs_is_told(run: RunFolder, plan: Plan) -> None:
    holders = {case: str(fold) for fold, cases in enumerate(FOLDS) for case in cases}
    member = HeldOut(configuration="2d", plan=plan, folds=("0", "1"), holders=holders)
    job = PruningJob(run=run, member=member, cases=CASES)
    pruned, whole = job.measure_cost(1), job.measure_cost(None)
    told = selection._describe_depth(
        job, ModelCandidate(members=(member,), jobs=(), dice=np.ones((6, 1)), pruned_depth=1), np.array([True])
    )
    assert told == (
        f"2d, pruned to depth 1: mean Dice 1.0000, {pruned.parameter_count:,} parameters, "
        f"{pruned.multiply_adds / 1e6:,.1f} million multiply-adds per patch"
    )
    assert 0 < pruned.parameter_count < whole.parameter_count
    assert 0 < pruned.multiply_adds < whole.multiply_adds


def test_fewer_than_five_cases_cannot_tell_so_nothing_is_predicted_or_pruned(run: RunFolder) -> None:
    train(run, "0", pruned=1, whole=1)
    notes = Notes()
    assert select(run, notes).members[0].pruned_depth is None
    assert "2d is not pruned: too few cases to tell, fewer than 5" in notes.lines
    assert not (run.root / "pruned").exists()


def test_a_repeated_selection_predicts_nothing_but_what_other_weights_made(pruned: RunFolder) -> None:
    before = read_document(pruned.selection, Selection)
    folder = pruned.pruned("2d", 1)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}
    notes = Notes()
    assert select(pruned, notes) == before
    assert "2d, pruned to depth 1: all 6 cases were predicted earlier" in notes.lines
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")} == times
    train(pruned, "1", pruned=0, whole=2)
    (folder / "a.nii.gz").unlink()
    notes = Notes()
    select(pruned, notes)
    assert "2d, pruned to depth 1: 4 held-out cases to predict with each, 2 are there from earlier" in notes.lines
    assert {case: int(read_label_map(folder / f"{case}.nii.gz").array.max()) for case in CASES} == {
        **dict.fromkeys(FOLDS[0], LIVER),
        **dict.fromkeys(FOLDS[1], 0),
    }


def test_selections_of_earlier_versions_are_read_and_a_pruned_pair_is_refused(pruned: RunFolder) -> None:
    content = json.loads(pruned.selection.read_text())
    member = content["members"][0]
    assert member.pop("pruned_depth") == 1
    pruned.selection.write_text(json.dumps(content))
    assert read_document(pruned.selection, Selection).members[0].pruned_depth is None
    content["members"] = [member, member | {"pruned_depth": 1}]
    pruned.selection.write_text(json.dumps(content))
    with pytest.raises(DocumentError, match="must not have a pruned_depth if there are several"):
        read_document(pruned.selection, Selection)


@torch.no_grad()
def test_a_pruned_model_computes_the_logits_of_its_column(tmp_path: Path, plan: Plan) -> None:
    whole = write_trained_fold(tmp_path, plan, "2d", fold="0").eval()
    model = autoseg.load_model(tmp_path, device="cpu", precision="float32", pruned_depth=1)
    image = torch.randn(2, 1, 16, 8)
    (network,) = model.networks
    torch.testing.assert_close(network(image)[0], whole(image)[1], rtol=1e-6, atol=1e-6)
    assert sum(part.numel() for part in network.parameters()) < sum(part.numel() for part in whole.parameters())
    assert model.describe().startswith("2d, pruned to depth 1, fold 0: ")


def test_only_the_weights_of_the_depth_are_read(tmp_path: Path, plan: Plan) -> None:
    write_trained_fold(tmp_path, plan, "2d", fold="0")
    path = RunFolder(tmp_path).fold("2d", "0").final_checkpoint
    weights = load_file(path)
    weights["network.heads.2.bias"] += torch.nan
    save_file(weights, path)
    inference.load_model(tmp_path, device="cpu", pruned_depth=1)
    with pytest.raises(PredictionError, match=r"heads\.2\.bias holds NaN"):
        inference.load_model(tmp_path, device="cpu")


def test_a_depth_that_the_network_does_not_have_is_refused(tmp_path: Path, plan: Plan) -> None:
    write_trained_fold(tmp_path / "nested", plan, "2d", fold="0")
    with pytest.raises(PlanError, match=r"configurations\.2d\.network: depth must be one of 1 to 2, .*autoseg select"):
        inference.load_model(tmp_path / "nested", device="cpu", pruned_depth=3)
    write_trained_fold(
        tmp_path / "plain", build_plan({"2d": build_configuration((8, 8), data_of="2d")}), "2d", fold="0"
    )
    with pytest.raises(PlanError, match="networks of the family plain_unet cannot be pruned"):
        inference.load_model(tmp_path / "plain", device="cpu", pruned_depth=1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image(tmp_path / "images" / "x_0000.nii.gz", np.ones(GRID.shape_voxels, np.float32), grid=GRID)
    return tmp_path / "images"


def segment(run: Path, images: Path, out: Path, **choices: object) -> set[int]:
    request = PredictionRequest(options=PredictionOptions(mirroring=False), device="cpu", **choices)  # type: ignore[arg-type]
    predict_images(run, images, out, request=request, progress=TELLER)
    return set(np.unique(read_label_map(out / "x.nii.gz").array).tolist())


def test_predict_uses_the_pruned_network_and_never_continues_what_the_whole_one_made(
    pruned: RunFolder, images: Path, tmp_path: Path
) -> None:
    assert segment(pruned.root, images, tmp_path / "out") == {LIVER}
    assert read_document(tmp_path / "out" / "prediction.json", PredictionRecord).pruned_depth == 1
    network = read_document(tmp_path / "out" / "plan.json", Plan).configurations["2d"].network
    assert isinstance(network, NestedUPlan)
    assert network.depth == 1
    assert segment(pruned.root, images, tmp_path / "whole", configuration="2d") == {TUMOUR}
    with pytest.raises(RunError, match="pruned_depth: 1 there, None now"):
        segment(pruned.root, images, tmp_path / "out", configuration="2d", overwrite=False)


def test_weights_that_changed_since_the_pruning_are_noticed(pruned: RunFolder, images: Path, tmp_path: Path) -> None:
    train(pruned, "1", pruned=1, whole=1)
    with pytest.raises(SelectionError, match=r"which was trained again since; choose anew with: autoseg select"):
        segment(pruned.root, images, tmp_path / "out")


def test_a_model_file_holds_the_pruned_network_alone(pruned: RunFolder, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    export_model(pruned.root, path, ExportRequest(format="autoseg"), progress=TELLER)
    inside = RunFolder(tmp_path / "unpacked")
    record = unpack_model_file(path, inside.root)
    names = load_file(inside.fold("2d", "0").final_checkpoint)
    assert "network.heads.1.bias" in names
    assert not any(name.startswith(("network.heads.2", "network.columns.1", "network.stages.2")) for name in names)
    assert read_document(inside.selection, Selection).members[0].pruned_depth is None
    assert record.configurations["2d"].scores is None  # those of the whole network
    assert record.selected is not None
    assert record.selected.classes["5"].mean == pytest.approx(2 / 3)
    assert segment(inside.root, images, tmp_path / "out") == {LIVER}
    loaded = autoseg.load_model(path, device="cpu")
    assert set(np.unique(loaded.predict_volume(np.ones((1, *GRID.shape_voxels), np.float32), GRID))) == {LIVER}
