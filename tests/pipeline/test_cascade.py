"""A cascade through the command line: planned, trained with its first stage, resumed, predicted, evaluated."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.balls import AFFINE, LABELS, make_case, save
from builders.command_line import run_autoseg
from builders.datasets import write_dataset
from builders.plans import shorten

CASCADE, FIRST = "3d_cascade_fullres", "3d_lowres"
MAGNIFICATION = 4  # large enough for a patch of the smallest memory to cover too little of an image
TRAIN = ("--configuration", CASCADE, "--device", "cpu", "--precision", "float32", "--workers", 0)


def make_large_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    image, label_map = (np.kron(part, np.ones((MAGNIFICATION,) * 3, part.dtype)) for part in make_case(seed))
    return image, label_map


def write_large_dataset(folder: Path) -> Path:
    cases = ((f"case{index}", make_large_case(index)) for index in range(2))
    return write_dataset(folder, cases, labels=LABELS, affine=AFFINE, numTraining=2)


def narrow(run: Path) -> None:
    """Tiny networks, and no mirrored views in prediction."""
    for configuration in (FIRST, CASCADE):
        shorten(run, configuration, epochs=2, iterations=15)
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    for configuration in (FIRST, CASCADE):
        chosen = plan["configurations"][configuration]
        chosen["network"]["features_per_stage"] = [6] * len(chosen["network"]["strides"])
        transforms = chosen["training"]["transforms"]
        chosen["training"]["transforms"] = [part for part in transforms if part["name"] != "mirror"]
        chosen["training"]["initial_learning_rate"] = 0.05
    path.write_text(json.dumps(plan))


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # several trainings, each with the start of its processes


@pytest.fixture(scope="module")
def cascade_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planned; fold 1 of the first stage trained; then fold 0 of the cascade, which trains what is missing."""
    folder = tmp_path_factory.mktemp("cascade")
    dataset, run = write_large_dataset(folder / "Dataset002_LargeBalls"), folder / "balls.autoseg"
    planned = run_autoseg(
        *("plan", dataset, "--run", run, "--memory-gb", 0.1, "--configuration", CASCADE, "--workers", 1)
    )
    assert planned.code == 0, planned.err
    narrow(run)
    early = run_autoseg("train", run, "--configuration", FIRST, "--fold", "1", "--device", "cpu", *TRAIN[4:])
    assert early.code == 0, early.err
    kept = (run / "models" / FIRST / "fold_1" / "checkpoint_final.safetensors").stat().st_mtime_ns
    trained = run_autoseg("train", run, "--fold", "0", *TRAIN)
    assert trained.code == 0, trained.err
    assert (run / "models" / FIRST / "fold_1" / "checkpoint_final.safetensors").stat().st_mtime_ns == kept
    return run


def read_predictions(run: Path) -> dict[str, dict[str, object]]:
    folder = run / "preprocessed" / CASCADE
    return {
        path.name.partition(".")[0]: json.loads(path.read_text())["source"] for path in folder.glob("*.previous.json")
    }


def test_every_fold_of_the_first_stage_is_trained_and_predicts_what_it_held_out(cascade_run: Path) -> None:
    folds = json.loads((cascade_run / "splits.json").read_text())["folds"]
    models = cascade_run / "models"
    assert sorted(path.name for path in (models / FIRST).glob("fold_*")) == ["fold_0", "fold_1"]
    assert [path.name for path in (models / CASCADE).glob("fold_*")] == ["fold_0"]
    sources = read_predictions(cascade_run)
    assert {case: source["fold"] for case, source in sources.items()} == {
        case: str(index) for index, fold in enumerate(folds) for case in fold["validation"]
    }
    for fold in ("fold_0", "fold_1"):
        assert (models / FIRST / fold / "validation" / "summary.json").is_file()
    assert (models / CASCADE / "fold_0" / "validation" / "summary.json").is_file()


def test_the_second_stage_learns_from_the_masks(cascade_run: Path) -> None:
    log = cascade_run / "models" / CASCADE / "fold_0" / "training_log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(records) == 2
    assert records[1]["train_loss"] < records[0]["train_loss"]


def test_a_cascade_predicts_in_one_command_and_is_evaluated(cascade_run: Path, tmp_path: Path) -> None:
    image, reference = make_large_case(50)
    save(tmp_path / "images" / "new_0000.nii.gz", image)
    save(tmp_path / "references" / "new.nii.gz", reference)
    done = run_autoseg("predict", cascade_run, tmp_path / "images", tmp_path / "out", "--device", "cpu")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert (record["configuration"], record["folds"]) == (CASCADE, ["0"])
    assert len(record["weights_sha256"]) == 3  # two of the first stage, one of the second
    label_map = np.asarray(nib.load(tmp_path / "out" / "new.nii.gz").dataobj)
    assert label_map.shape == reference.shape
    evaluated = run_autoseg("evaluate", tmp_path / "out", tmp_path / "references", "--run", cascade_run)
    assert evaluated.code == 0, evaluated.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] > 0.5


def test_a_shared_cascade_predicts_with_both_stages(cascade_run: Path, tmp_path: Path) -> None:
    save(tmp_path / "images" / "new_0000.nii.gz", make_large_case(52)[0])
    output = tmp_path / "cascade.zip"
    shared = run_autoseg(
        "export", cascade_run, "--format", "autoseg", "--output", output, "--configuration", CASCADE, "--fold", "0"
    )
    assert shared.code == 0, shared.err
    label_maps = []
    for model, options in ((cascade_run, ("--configuration", CASCADE, "--fold", "0")), (output, ())):
        out = tmp_path / model.name.partition(".")[2]
        done = run_autoseg("predict", model, tmp_path / "images", out, *options, "--device", "cpu")
        assert done.code == 0, done.err
        assert len(json.loads((out / "prediction.json").read_text())["weights_sha256"]) == 2
        label_maps.append(np.asarray(nib.load(out / "new.nii.gz").dataobj))
    np.testing.assert_array_equal(*label_maps)
    assert len(np.unique(label_maps[0])) > 1


def test_a_cascade_is_one_half_of_a_pair(cascade_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(cascade_run, run)
    done = run_autoseg("select", run, "--device", "cpu")
    assert done.code == 0, done.err
    selection = json.loads((run / "selection.json").read_text())
    (case,) = selection["cases"]  # held out by fold 0, the only one of the cascade
    assert case in json.loads((run / "splits.json").read_text())["folds"][0]["validation"]
    (folder,) = (run / "ensembles").iterdir()
    assert {*folder.name.split("+")} == {FIRST, CASCADE}
    assert (folder / f"{case}.nii.gz").is_file()
    sources = json.loads((folder / f"{case}.source.json").read_text())["sources"]
    assert sorted(source["configuration"] for source in sources) == [CASCADE, FIRST, FIRST]
    image, _ = make_large_case(51)
    save(tmp_path / "images" / "new_0000.nii.gz", image)
    weights = {member["configuration"]: member for member in selection["members"]}
    for name, folds in ((FIRST, ["0", "1"]), (CASCADE, ["0"])):
        alone = run_autoseg("select", run, "--configuration", name)
        assert alone.code == 0, alone.err
        (weights[name],) = json.loads((run / "selection.json").read_text())["members"]
        assert weights[name]["folds"] == folds
    (run / "selection.json").write_text(json.dumps(selection | {"members": [weights[FIRST], weights[CASCADE]]}))
    predicted = run_autoseg("predict", run, tmp_path / "images", tmp_path / "out", "--device", "cpu")
    assert predicted.code == 0, predicted.err
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert record["configuration"] == f"{FIRST} + {CASCADE}"
    assert record["weights_sha256"] == [*weights[FIRST]["weights_sha256"], *weights[CASCADE]["weights_sha256"]]


def test_a_finished_cascade_is_left_alone_and_a_new_first_stage_is_noticed(cascade_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(cascade_run, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.suffix in (".safetensors", ".b2nd")}
    again = run_autoseg("train", run, "--fold", "0", *TRAIN)
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    first = ("train", run, "--configuration", FIRST, "--fold", "1", "--device", "cpu", "--restart", "--epochs", 1)
    assert run_autoseg(*first).code == 0
    old = read_predictions(run)
    refused = run_autoseg("train", run, "--fold", "0", *TRAIN)
    assert refused.code == 1
    assert "the weights of the previous stage changed" in refused.err
    changed = {case for case, source in read_predictions(run).items() if source != old[case]}
    assert changed == {case for case, source in old.items() if source["fold"] == "1"}
    everything = run_autoseg("train", run, "--fold", "all", "--epochs", 1, *TRAIN)
    assert everything.code == 0, everything.err
    assert not (run / "models" / FIRST / "fold_all").exists()


def test_a_second_stage_that_learnt_from_an_earlier_first_stage_is_told_and_may_be_extended(
    cascade_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(cascade_run, run)
    again = ("--configuration", FIRST, "--fold", "1", "--restart", "--seed", 5, "--epochs", 1)
    done = run_autoseg("train", run, *again, "--device", "cpu", *TRAIN[4:])
    assert done.code == 0, done.err

    selected = run_autoseg("select", run, "--configuration", CASCADE, "--device", "cpu")
    assert selected.code == 1
    assert f"{CASCADE} was trained on predictions of {FIRST}, which was trained again since (fold 0)" in selected.err
    save(tmp_path / "images" / "new_0000.nii.gz", make_large_case(50)[0])
    for source, is_stale in ((cascade_run, False), (run, True)):
        options = ("--configuration", CASCADE, "--device", "cpu")
        predicted = run_autoseg("predict", source, tmp_path / "images", tmp_path / f"stale_{is_stale}", *options)
        assert predicted.code == 0, predicted.err
        assert ("again since (fold 0), and may predict worse with it" in " ".join(predicted.out.split())) is is_stale

    folds = ("--fold", "0", "--fold", "1")
    trained = run_autoseg("train", run, *folds, *TRAIN)
    assert trained.code == 1
    assert "the weights of the previous stage changed" in trained.out + trained.err
    repeated = run_autoseg("train", run, *folds[:2], *TRAIN)
    assert repeated.code == 1

    kept = (run / "models" / FIRST / "fold_0" / "checkpoint_final.safetensors").stat().st_mtime_ns
    extended = run_autoseg("train", run, *folds[:2], "--extend", 1, *TRAIN)
    assert extended.code == 0, extended.out + extended.err
    assert (run / "models" / FIRST / "fold_0" / "checkpoint_final.safetensors").stat().st_mtime_ns == kept
    log = run / "models" / CASCADE / "fold_0" / "training_log.jsonl"
    assert len(log.read_text().splitlines()) == 3
