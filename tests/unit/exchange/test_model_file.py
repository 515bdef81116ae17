"""A model in one file: what is in it, what is not, and that it predicts like the run that it came from."""

import getpass
import json
import shutil
import socket
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from builders.networks import build_small_network_plan
from builders.nnunet_models import build_foreign_configuration, build_foreign_plans, write_foreign_model
from builders.plans import build_configuration, build_plan
from builders.progress import Notes
from builders.selections import build_prediction_choice, build_selection, build_variant
from builders.volumes import save_nifti
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

import autoseg
from autoseg.cli.export import export
from autoseg.cli.import_model import import_model as import_command
from autoseg.cli.predict import predict
from autoseg.dataset.folds import Fold, Splits
from autoseg.dataset.record import DatasetRecord
from autoseg.document import read_document, write_document
from autoseg.errors import ExchangeError, PredictionError, RunError, SelectionError
from autoseg.evaluation.crossvalidation import Statistic
from autoseg.evaluation.summary import METRICS, CaseSummary, EvaluationSummary, MetricValues
from autoseg.exchange.model_file import ModelRecord, extract_shared_plan
from autoseg.inference.model import load_model
from autoseg.plan import Plan, Reason
from autoseg.postprocessing.rules import LargestComponent, MinimumSize
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.runtime.provenance import TrainingRecord, read_versions
from autoseg.validation_conditions import ValidationConditions
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.importing import import_model
from autoseg.workflows.exchange.request import ExportRequest, ImportRequest
from autoseg.workflows.folds.status import read_run_status
from autoseg.workflows.plan.planning import preprocess_run
from autoseg.workflows.predict.model_source import find_kind, open_model
from autoseg.workflows.select.model_choice import list_weights
from autoseg.workflows.select.selection_document import CandidateScores, Member, Selection

Builder = Callable[..., Any]
TELLER = SilentProgress()
SECRET = "MuellerAnna1967"
PAIR = ("2d", "3d_fullres")
RULES = (
    LargestComponent(name="foreground", values=(1, 2)),
    MinimumSize(name="tumour", values=(2,), minimum_mm3=20.0),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two configurations with two folds each, as nnU-Net trained them, in a run that autoseg planned."""
    plans = build_foreign_plans({"2d": build_foreign_configuration(2), "3d_fullres": build_foreign_configuration()})
    for name in PAIR:
        write_foreign_model(tmp_path / "results", plans=plans, configuration=name, folds=("0", "1"))
    root = tmp_path / "x.autoseg"
    import_model(tmp_path / "results", root, progress=TELLER)
    for path in root.rglob("plan.json"):
        write_document(path, read_document(path, Plan).model_copy(update={"planner": "default"}))
    return root


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    """Of a name that nobody knows, so that no order of preference puts it before its first stage."""
    configurations = {
        "3d_lowres": build_foreign_configuration(spacing=[3.0, 1.5, 1.5]),
        "3d_fullres": build_foreign_configuration(),
        "mine": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    plans = build_foreign_plans(configurations)
    for name, folds in (("3d_lowres", ("0", "1")), ("mine", ("1",))):
        write_foreign_model(tmp_path / "results", plans=plans, configuration=name, folds=folds)
    import_model(tmp_path / "results", tmp_path / "x.autoseg", progress=TELLER)
    return tmp_path / "x.autoseg"


@pytest.fixture
def select() -> Callable[..., Selection]:
    """Writes what `autoseg select` would, for a choice made here."""

    def write(root: Path, *names: str, folds: tuple[str, ...] = ("0", "1")) -> Selection:
        run = RunFolder(root)
        plan = read_document(run.plan, Plan)
        members = tuple(
            Member(configuration=name, folds=folds, weights_sha256=list_weights(run, plan, name, folds))
            for name in names
        )
        choice = build_prediction_choice((build_variant(*names),), mirroring=False, decoding="dice")
        selection: Selection = build_selection(members, RULES).model_copy(update={"prediction": choice})
        write_document(run.selection, selection)
        return selection

    return write


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for seed in (0, 1):
        voxels = np.random.default_rng(seed).normal(100, 20, (18, 17, 9 + seed)).astype(np.float32)
        save_nifti(folder / f"case{seed}_0000.nii.gz", voxels, np.diag([-1.25, 1.0, 2.5, 1.0]))
    return folder


def segment(model: Path, images: Path, **options: Any) -> dict[str, np.ndarray]:
    out = Path(tempfile.mkdtemp(dir=images.parent)) / "out"
    predict(model, images, out, device="cpu", **options)
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(out.glob("*.nii.gz"))}


def are_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def share(run: Path, **choices: Any) -> Path:
    output = run.parent / f"shared{len(list(run.parent.glob('shared*')))}.zip"
    export_model(run, output, ExportRequest(format="autoseg", **choices), progress=TELLER)
    return output


def list_members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return sorted(archive.namelist())


def read_member(path: Path, name: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(name))


def list_expected(*folds: tuple[str, str], selected: bool) -> list[str]:
    files = [
        f"models/{name}/fold_{fold}/{file}"
        for name, fold in folds
        for file in ("checkpoint_final.safetensors", "plan.json")
    ]
    return sorted([*files, "README.md", "model.json", "plan.json", *(["selection.json"] if selected else [])])


def rewrite(path: Path, **changes: bytes | None) -> Path:
    """The same file with other members; a key stands for the member whose name ends in it, None removes it."""
    changed = path.with_name("changed.zip")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(changed, "w") as new:
        for name in archive.namelist():
            replaced = [content for key, content in changes.items() if name.replace(".json", "").endswith(key)]
            content = replaced[0] if replaced else archive.read(name)
            if content is not None:
                new.writestr(name, content)
    return changed


def test_a_file_holds_what_prediction_needs_and_nothing_else(run: Path) -> None:
    path = share(run)
    folds = [(name, fold) for name in PAIR for fold in ("0", "1")]
    assert list_members(path) == list_expected(*folds, selected=False)
    weights = sum(file.stat().st_size for file in run.rglob("*.safetensors"))
    assert path.stat().st_size < weights + 60_000


def test_single_configurations_and_folds_can_be_shared(run: Path) -> None:
    assert list_members(share(run, configuration="2d", folds=("1",))) == list_expected(("2d", "1"), selected=False)
    with pytest.raises(PredictionError, match="needs checkpoint_final"):
        share(run, folds=("3",))


def test_equal_models_are_equal_files_wherever_they_lie(run: Path, tmp_path: Path) -> None:
    first = share(run)
    moved = shutil.copytree(run, tmp_path / "elsewhere" / "y.autoseg")
    assert share(moved).read_bytes() == first.read_bytes()


def test_the_file_predicts_what_the_run_predicts(run: Path, images: Path) -> None:
    expected = segment(run, images)
    assert {value for array in expected.values() for value in np.unique(array)} == {0, 1, 2}
    assert are_equal(segment(share(run), images), expected)


def test_a_selected_pair_and_its_postprocessing_predict_what_the_run_predicts(
    run: Path, images: Path, select: Builder
) -> None:
    select(run, *PAIR)
    path = share(run)
    expected, single = segment(run, images), segment(run, images, configuration="3d_fullres")
    assert not are_equal(expected, single)
    assert not are_equal(expected, segment(run, images, no_postprocessing=True))
    assert not are_equal(expected, segment(run, images, decoding="argmax"))
    assert are_equal(segment(path, images), expected)
    assert are_equal(segment(path, images, configuration="3d_fullres"), single)


def test_what_was_selected_is_shared_and_the_rest_is_named(run: Path, select: Builder) -> None:
    select(run, "2d", folds=("1",))
    notes, output = Notes(), run.parent / "m.zip"
    export_model(run, output, ExportRequest(format="autoseg"), progress=notes)
    assert list_members(output) == list_expected(("2d", "1"), selected=True)
    assert any("not selected and so not in the file: 3d_fullres" in note for note in notes.lines)


def test_a_named_configuration_leaves_the_selection_aside(run: Path, select: Builder) -> None:
    select(run, *PAIR)
    path = share(run, configuration="2d")
    assert list_members(path) == list_expected(("2d", "0"), ("2d", "1"), selected=False)
    assert read_member(path, "model.json")["selected"] is None


def test_a_selected_model_that_was_trained_again_is_not_shared(run: Path, select: Builder) -> None:
    select(run, "2d")
    path = RunFolder(run).fold("2d", "1").final_checkpoint
    save_file({name: tensor + 1 for name, tensor in load_file(path).items() if name != "checksums"}, path)
    with pytest.raises(SelectionError, match="was trained again since"):
        share(run)
    assert list(run.parent.glob("shared*")) == []


@pytest.mark.parametrize("is_selected", [False, True])
def test_a_cascade_is_shared_with_its_first_stage_and_predicts_the_same(
    cascade: Path, images: Path, select: Builder, *, is_selected: bool
) -> None:
    if is_selected:
        select(cascade, "mine", folds=("1",))
    path = share(cascade) if is_selected else share(cascade, configuration="mine")
    first = [("3d_lowres", "1")] if is_selected else [("3d_lowres", "0"), ("3d_lowres", "1")]
    assert list_members(path) == list_expected(*first, ("mine", "1"), selected=is_selected)
    expected = segment(cascade, images, **({} if is_selected else {"configuration": "mine"}))
    assert not are_equal(expected, segment(cascade, images, configuration="3d_lowres"))
    assert are_equal(segment(path, images), expected)
    assert load_model(cascade, device="cpu").configuration == "mine"  # not its first stage, whose name is known


def test_python_loads_a_file_and_predicts_with_it(run: Path, images: Path, tmp_path: Path) -> None:
    path, before = share(run), set(Path(tempfile.gettempdir()).glob("autoseg-*"))
    first, second = autoseg.load_model(str(path), device="cpu"), load_model(run, device="cpu")
    assert set(Path(tempfile.gettempdir()).glob("autoseg-*")) == before
    volume = np.random.default_rng(3).normal(100, 20, (8, 16, 16)).astype(np.float32)
    found, expected = (autoseg.predict_volume(model, volume, (2.5, 1.0, 1.25)) for model in (first, second))
    assert np.array_equal(found, expected)
    assert np.array_equal(autoseg.predict_volume(path, volume, (2.5, 1.0, 1.25), device="cpu"), expected)
    assert autoseg.predict_images(path, images, tmp_path / "out").written == 2
    with pytest.raises(PredictionError, match="at least one fold"):
        autoseg.load_model(path, folds=[])


def test_what_a_path_leads_to_is_told_by_one_function(run: Path, tmp_path: Path) -> None:
    assert find_kind(run) == "run"
    assert find_kind(share(run)) == "model_file"
    assert find_kind(next((tmp_path / "results").iterdir())) == "nnunet"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("Dataset001_X/plans.json", "{}")
    assert find_kind(tmp_path / "other.zip") == "nnunet"
    assert [find_kind(tmp_path / name) for name in ("nowhere", "images.txt")] == [None, None]
    assert find_kind(tmp_path) is None or find_kind(tmp_path) == "nnunet"  # results lie in it


def test_a_model_is_unpacked_for_a_call_and_removed(run: Path) -> None:
    notes = Notes()
    with open_model(share(run), progress=notes) as opened:
        assert RunFolder(opened.run).plan.is_file()
    assert not opened.run.parent.exists()
    assert "autoseg import" in notes.lines[0]


def test_a_damaged_file_is_not_called_a_model_of_nnunet(run: Path, tmp_path: Path) -> None:
    path, notes = tmp_path / "cut.zip", Notes()
    path.write_bytes(share(run).read_bytes()[:100])
    with pytest.raises(ExchangeError, match=r"cut\.zip cannot be unpacked"), open_model(path, progress=notes):
        pass
    assert notes.lines == []


# What must not be in the file


def spoil(run: Path, tmp_path: Path, select: Builder) -> Path:
    """Writes a name into everything in a run that can hold one."""
    folder = RunFolder(run)
    source = tmp_path / SECRET / "Dataset001_X"
    source.mkdir(parents=True)
    (source / "dataset.json").write_text(json.dumps({"licence": " CC0\n1.0", "description": SECRET, "name": SECRET}))
    plan = read_document(folder.plan, Plan)
    spoilt = plan.model_copy(update={"reasons": (Reason(subject=SECRET, value=SECRET, because=SECRET),)})
    for path in run.rglob("plan.json"):
        write_document(path, spoilt)
    record = DatasetRecord(
        name="x", source=str(source), channel_names=("MR",), labels=plan.labels, file_ending=".nii.gz", cases=()
    )
    write_document(folder.dataset, record)
    write_document(folder.splits, Splits(folds=(Fold(training=(SECRET,), validation=("b",)),)))
    folder.fingerprint.write_text(SECRET)
    for name in PAIR:
        for fold in ("0", "1"):
            _spoil_fold(run, name, fold)
    selection = select(run, *PAIR)
    statistic = Statistic(mean=0.5, std=None, lower=None, upper=None, count=2)
    candidate = CandidateScores(configurations=PAIR, foreground=statistic, classes={"1": statistic, SECRET: statistic})
    told = {"cases": (SECRET,), "because": SECRET, "candidates": (candidate,), "class_names": {"1": SECRET}}
    write_document(folder.selection, selection.model_copy(update=told))
    for name in ("logs", "references", "preprocessed", "ensembles"):
        (run / name).mkdir()
        (run / name / f"{SECRET}.log").write_text(SECRET)
    return run


def _spoil_fold(run: Path, configuration: str, name: str) -> None:
    fold = RunFolder(run).fold(configuration, name)
    tensors = load_file(fold.final_checkpoint)
    del tensors["checksums"]  # they cover the names of the other tensors
    save_file(tensors | {f"optimizer.0.{SECRET}": torch.zeros(1)}, fold.final_checkpoint, metadata={"autoseg": SECRET})
    versions = read_versions().model_copy(update={"platform": SECRET})
    told = {"configuration": configuration, "fold": name, "seed": 0, "device": SECRET, "number_type": "float32"}
    write_document(fold.training_record, TrainingRecord(**told, plan_sha256=SECRET, versions=versions))
    values = MetricValues(**dict.fromkeys(METRICS, 0.75))
    by_class = {"1": values, "2": values}
    case = CaseSummary(case=SECRET, prediction_file=SECRET, reference_file=SECRET, metrics=by_class)
    summary = EvaluationSummary(
        tolerance_mm=1.0, definitions={}, class_names={"1": "liver", "2": "tumour"}, foreground_mean=values,
        mean=by_class, std=by_class, count=by_class, metric_per_case=(case,),
    )  # fmt: skip
    write_document(fold.summary, summary)
    (fold.validation / f"{SECRET}.nii.gz").write_text(SECRET)
    for path in (fold.training_log, fold.state, fold.trackers, fold.import_record, fold.latest_checkpoint):
        path.write_text(SECRET)
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", SECRET)
    Image.new("L", (4, 4)).save(fold.progress_picture, pnginfo=text)


def find_words(content: bytes, words: list[str]) -> list[str]:
    lowered = content.lower()
    return [
        word
        for word in words
        for encoding in ("utf-8", "utf-16-le")
        if word.lower().encode(encoding) in lowered
    ]  # fmt: skip


def test_no_name_in_a_run_reaches_the_file(run: Path, tmp_path: Path, select: Builder) -> None:
    spoil(run, tmp_path, select)
    spoilt = [path for path in run.rglob("*") if path.is_file() and find_words(path.read_bytes(), [SECRET])]
    assert len(spoilt) > 40  # or there would be nothing to be found
    path = share(run)
    names = [SECRET, getpass.getuser(), socket.gethostname(), *tmp_path.parts, run.name]
    words = [name for name in names if len(name) > 3]  # shorter ones occur in weights by chance
    with zipfile.ZipFile(path) as archive:
        found = {name: find_words(name.encode() + archive.read(name), words) for name in archive.namelist()}
        assert archive.comment == b""
        assert {member.extra for member in archive.infolist()} == {b""}
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        names = [name for name in archive.namelist() if name.endswith(".safetensors")]
        headers = [archive.read(name)[8:] for name in names]
    assert len(found) == 12
    assert {name: words for name, words in found.items() if words} == {}
    assert find_words(path.read_bytes(), words) == []
    assert all(b"__metadata__" not in header for header in headers)
    record = ModelRecord.model_validate(read_member(path, "model.json"))
    assert record.licence == "CC0 1.0"
    assert record.configurations["2d"].scores is not None
    assert record.configurations["2d"].scores.classes["1"]["Dice"].mean == 0.75
    assert record.selected is not None
    assert set(record.selected.classes) == {"1"}


def test_a_shared_plan_does_not_say_where_pretrained_weights_lay() -> None:
    network = build_small_network_plan(
        "encoder_u",
        2,
        input_channels=1,
        pretrained={"path": f"/home/{SECRET}", "sha256": "0" * 64, "first_kernels": "mean"},
    )
    configuration = build_configuration((16, 16), data_of="2d").model_copy(update={"network": network})
    plan = build_plan({"2d": configuration})
    shared = extract_shared_plan(plan, plan.configurations)
    assert SECRET in plan.model_dump_json()
    assert SECRET not in shared.model_dump_json()
    without = network.model_copy(update={"pretrained": None})
    assert shared.configurations["2d"] == configuration.model_copy(update={"network": without})


def test_the_card_says_what_a_user_must_know(run: Path, tmp_path: Path, select: Builder) -> None:
    path = share(spoil(run, tmp_path, select))
    with zipfile.ZipFile(path) as archive:
        card = archive.read("README.md").decode()
    for text in (
        "# Segmentation model of Dataset001_X", "no medical device", "| liver | 1 |", "| tumour | 2 |",
        "| 0 | `CASE_0000.nii.gz` | MR | any scale", "must lie like the training images",
        "| 2d | 0, 1 | plain_unet, 2D | y 1, x 1.25 | 16 x 16 |", "| 3d_fullres | 0, 1 | plain_unet, 3D | z 2.5, y 1",
        "2d and 3d_fullres, whose probabilities are averaged",
        "Postprocessing: keep the largest component of foreground; remove components of tumour below 20 mm3.",
        "| liver | 0.750 |", "dataset.json states it: CC0 1.0", f"autoseg {autoseg.__version__}",
        f"PyTorch {torch.__version__}", "autoseg predict MODEL.zip IMAGES OUT",
    ):  # fmt: skip
        assert text in card


def test_the_card_says_what_limits_the_scores_and_counts_in_pixels_where_files_tell_no_spacing(
    run: Path, tmp_path: Path, select: Builder
) -> None:
    spoil(run, tmp_path, select)
    for path in run.rglob("plan.json"):
        write_document(path, read_document(path, Plan).model_copy(update={"distance_unit": "pixel"}))
    summary = RunFolder(run).fold("2d", "1").summary
    conditions = ValidationConditions(
        mirroring=False, validated_cases=1, held_out_cases=1, trained_iterations=300, sufficient_iterations=2000
    )
    write_document(summary, read_document(summary, EvaluationSummary).model_copy(update={"validation": conditions}))
    path = share(run)
    with zipfile.ZipFile(path) as archive:
        card, plan = archive.read("README.md").decode(), json.loads(archive.read("plan.json"))
    assert plan["distance_unit"] == "pixel"
    assert "| class | Dice | HD95 (pixels) | NSD (1 pixel) |" in card
    assert "spacing (pixels)" in card
    assert "(mm)" not in card
    assert "1 mm" not in card
    assert "**Warning:** fold 1: a limited validation (no mirrored views)" in card
    assert "**Warning:** fold 1: 300 iterations are 15 % of the 2,000 that the plan needs at least" in card


def test_the_lines_of_the_card_run(run: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = share(run, configuration="2d", folds=("0",))
    monkeypatch.chdir(path.parent)
    path.rename("MODEL.zip")
    images.rename("IMAGES")
    with zipfile.ZipFile("MODEL.zip") as archive:
        block = archive.read("README.md").decode().partition("```python\n")[2].partition("```")[0]
    exec(compile(block, "README.md", "exec"), {})
    assert len(list(Path("OUT").glob("*.nii.gz"))) == 2


def test_a_dataset_that_has_gone_leaves_the_licence_open(run: Path, tmp_path: Path, select: Builder) -> None:
    spoil(run, tmp_path, select)
    shutil.rmtree(tmp_path / SECRET)
    notes = Notes()
    export_model(run, tmp_path / "m.zip", ExportRequest(format="autoseg"), progress=notes)
    assert any("will not state the licence" in note for note in notes.lines)
    assert read_member(tmp_path / "m.zip", "model.json")["licence"] is None


# Importing


def test_a_file_becomes_a_run_that_predicts_and_gives_the_same_file(
    run: Path, images: Path, tmp_path: Path, *, select: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = share(spoil(run, tmp_path, select))
    root = tmp_path / "again.autoseg"
    import_command(path, root)
    assert "imported 2d, folds 0, 1" in capsys.readouterr().out
    assert are_equal(segment(root, images), segment(run, images))
    assert share(root).read_bytes() == path.read_bytes()
    import_command(path, root)
    assert "imported before, kept" in capsys.readouterr().out
    assert {status.state for status in read_run_status(root)} == {"finished"}
    with pytest.raises(RunError, match="holds imported models"):
        preprocess_run(root, configurations=(), workers=1, progress=TELLER)
    with pytest.raises(PredictionError, match="came in one file, which holds no more"):
        load_model(root, configuration="2d", folds=["4"])


def test_an_imported_file_is_replaced_only_if_asked_and_other_folders_never(run: Path, tmp_path: Path) -> None:
    first, second, root = share(run), share(run, configuration="2d"), tmp_path / "again.autoseg"
    import_model(first, root, progress=TELLER)
    with pytest.raises(ExchangeError, match="holds another model"):
        import_model(second, root, progress=TELLER)
    (root / "predictions").mkdir()
    with pytest.raises(ExchangeError, match="did not come with its model, and would be removed with it: predictions;"):
        import_model(second, root, ImportRequest(overwrite=True), progress=TELLER)
    (root / "predictions").rmdir()
    (root / "report.html").write_text("of the other model")
    import_model(second, root, ImportRequest(overwrite=True), progress=TELLER)
    assert not (root / "report.html").exists()
    assert [path.name for path in (root / "models").iterdir()] == ["2d"]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for overwrite in (False, True):
        with pytest.raises(ExchangeError, match="holds other files"):
            import_model(first, run, ImportRequest(overwrite=overwrite), progress=TELLER)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_file_is_imported_as_a_whole(run: Path, tmp_path: Path) -> None:
    for request in (ImportRequest(configuration="2d"), ImportRequest(folds=("0",)), ImportRequest(checkpoint="best")):
        with pytest.raises(ExchangeError, match="imported as a whole"):
            import_model(share(run), tmp_path / "again.autoseg", request, progress=TELLER)
    assert not (tmp_path / "again.autoseg").exists()


def test_models_of_nnunet_are_not_added_to_a_run_that_came_in_one_file(tmp_path: Path) -> None:
    source = write_foreign_model(tmp_path / "results")
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    import_model(share(tmp_path / "x.autoseg"), tmp_path / "again.autoseg", progress=TELLER)
    with pytest.raises(ExchangeError, match="came in one file"):
        import_model(source, tmp_path / "again.autoseg", progress=TELLER)


# Refusals


def test_an_export_replaces_a_file_only_if_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "a new folder" / "m.zip"
    export(run, format="autoseg", output=output)
    assert f"next: autoseg predict '{output}' IMAGES OUT" in capsys.readouterr().out  # a shell takes it for one word
    assert stat.S_IMODE(output.stat().st_mode) & 0o444 == 0o444
    before = output.read_bytes()
    export(run, format="autoseg", output=output)  # the repetition of one that was killed at its end
    with pytest.raises(ExchangeError, match="--overwrite"):
        export(run, format="autoseg", output=output, configuration="2d")
    assert output.read_bytes() == before
    export(run, format="autoseg", output=output, configuration="2d", overwrite=True)
    assert len(output.read_bytes()) < len(before)
    assert [path.name for path in output.parent.iterdir()] == ["m.zip"]


@pytest.mark.parametrize(
    ("name", "match"), [("m.tar", r"ends in \.zip"), ("folder", r"the folder .*folder/model\.zip")]
)
def test_other_names_are_refused(name: str, match: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExchangeError, match=match):
        export_model(run, tmp_path / name, ExportRequest(format="autoseg"), progress=TELLER)


def test_a_refused_export_leaves_nothing(run: Path, tmp_path: Path) -> None:
    path = RunFolder(run).fold("3d_fullres", "1").final_checkpoint
    save_file({"network.other": torch.zeros(1)}, path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PredictionError, match="do not fit the network"):
        export_model(run, tmp_path / "new" / "folders" / "m.zip", ExportRequest(format="autoseg"), progress=TELLER)
    assert sorted(tmp_path.rglob("*")) == before


def test_models_of_other_labels_do_not_share_a_file(run: Path) -> None:
    for fold in ("0", "1"):
        path = RunFolder(run).fold("2d", fold).plan
        content = json.loads(path.read_text())
        content["labels"]["classes"][0]["name"] = "spleen"
        path.write_text(json.dumps(content))
    with pytest.raises(ExchangeError, match=r"same labels, channels and axes.*name one of them with --configuration"):
        share(run)


def test_a_file_of_a_newer_autoseg_is_refused_in_words(run: Path, images: Path, tmp_path: Path) -> None:
    path = share(run)
    record = read_member(path, "model.json")
    newer = json.dumps(record | {"schema_version": 2, "autoseg_version": "9.1.0", "more": 1}).encode()
    match = rf"written by autoseg 9\.1\.0 and cannot be read by this autoseg {autoseg.__version__}.*update autoseg"
    with pytest.raises(ExchangeError, match=match):
        predict(rewrite(path, model=newer), images, tmp_path / "out")
    plan = json.dumps(read_member(path, "plan.json") | {"more": 1}).encode()
    same_form = json.dumps(record | {"autoseg_version": "9.1.0"}).encode()
    with pytest.raises(ExchangeError, match=r"autoseg 9\.1\.0.*plan\.json: more: unknown key.*update autoseg"):
        predict(rewrite(path, plan=plan, model=same_form), images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"[]", b'{"schema_version": 1}', b'{"schema_version": 1, "autoseg_version": 7}'])
def test_a_file_that_says_nothing_about_itself_is_refused(content: bytes, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="was written by an unknown program"):
        import_model(rewrite(share(run), model=content), tmp_path / "again", progress=TELLER)
    assert not (tmp_path / "again").exists()


def test_an_incomplete_file_is_refused(run: Path, tmp_path: Path) -> None:
    path = share(run)
    changed = rewrite(path, **{"2d/fold_1/checkpoint_final.safetensors": None})
    with pytest.raises(ExchangeError, match="lacks 2d, fold 1"):
        import_model(changed, tmp_path / "again", progress=TELLER)
    with pytest.raises(ExchangeError, match=r"lacks (2d|3d_fullres), folds 0, 1"):
        import_model(rewrite(path, plan=None), tmp_path / "again", progress=TELLER)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["../../other", "/etc", "..", "a\\b", "C:x"])
def test_configurations_that_lead_out_of_the_run_are_refused(name: str, run: Path, tmp_path: Path) -> None:
    path = share(run, configuration="2d")
    plan = read_member(path, "plan.json")
    plan["configurations"] = {name: plan["configurations"]["2d"] | {"data_of": name}}
    with pytest.raises(ExchangeError, match=r"plan\.json: configurations"):
        import_model(rewrite(path, plan=json.dumps(plan).encode()), tmp_path / "again", progress=TELLER)


def test_a_member_that_leads_out_of_the_folder_is_refused(run: Path, tmp_path: Path) -> None:
    path = share(run)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../plan.json", "{}")
    with pytest.raises(ExchangeError, match="Nothing was unpacked"):
        import_model(path, tmp_path / "again", progress=TELLER)
    assert not (tmp_path / "again").exists()


def test_what_else_lies_in_a_file_stays_there(run: Path, tmp_path: Path) -> None:
    path = share(run)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("setup.py", "raise SystemExit")
    import_model(path, tmp_path / "again", progress=TELLER)
    assert not (tmp_path / "again" / "setup.py").exists()
