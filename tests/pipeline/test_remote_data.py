"""A dataset and a run by URL give what they give in local folders, on one computer and on several."""

import json
import shutil
from pathlib import Path

import pytest
from builders.balls import make_case, save
from builders.command_line import run_autoseg
from builders.plans import shorten
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow
WEIGHTS = "models/3d_fullres/fold_0/checkpoint_final.safetensors"


def run(*arguments: object, code: int = 0) -> str:
    done = run_autoseg(*arguments)
    assert done.code == code, done.err
    return done.out + done.err


@pytest.fixture
def shared(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place that several computers reach, with a dataset and images."""
    shutil.copytree(dataset, tmp_path / "shared" / dataset.name)
    for seed in (200, 201):
        save(tmp_path / "shared" / "images" / f"new{seed}_0000.nii.gz", make_case(seed)[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first computer"))
    return tmp_path / "shared"


def test_a_run_by_url_equals_a_local_one(
    shared: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, dataset = f"file://{shared}", next(shared.glob("Dataset*"))
    url = f"{place}/balls.autoseg"
    told = run("plan", f"{place}/{dataset.name}", "--run", url, "--workers", 1, "--configuration", "3d_fullres")
    assert f"autoseg train {url}" in told
    assert not (shared / "balls.autoseg" / "preprocessed").exists()
    assert json.loads((shared / "balls.autoseg" / "dataset.json").read_text())["source"] == f"{place}/{dataset.name}"
    shorten(shared / "balls.autoseg", "3d_fullres", epochs=3, iterations=20)
    for name in ("plan.json", "splits.json"):
        assert (shared / "balls.autoseg" / name).read_bytes() == (trained_run / name).read_bytes()

    told = run("train", url, "--configuration", "3d_fullres", "--fold", "0", "--device", "cpu")
    assert f"{url}/{WEIGHTS}" in told
    expected, found = load_file(trained_run / WEIGHTS), load_file(shared / "balls.autoseg" / WEIGHTS)
    assert {name for name in expected if expected[name].tobytes() != found[name].tobytes()} <= {"checksums"}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second computer"))
    assert "not preprocessed" in run("train", url, "--configuration", "3d_fullres", "--fold", "1", code=1)
    told = run("predict", url, f"{place}/images", f"{place}/out", "--device", "cpu")
    assert f"2 label maps written in {place}/out" in told
    run("predict", trained_run, shared / "images", tmp_path / "local", "--device", "cpu")
    for seed in (200, 201):
        name = f"new{seed}.nii.gz"
        assert (shared / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    told = run("predict", url, f"{place}/images", f"{place}/out", "--device", "cpu")
    assert "0 label maps written, 2 finished earlier" in told

    texts = [path.read_text(errors="replace") for path in shared.rglob("*.json*")]
    assert len(texts) > 10
    assert [text for text in texts if " computer" in text] == []


def test_a_dataset_by_url_is_checked_and_its_problems_name_the_url(shared: Path, dataset: Path) -> None:
    place = f"file://{shared}/{dataset.name}"
    assert f"{place}: 6 cases, 0 problems" in run("check", place, "--workers", 2)
    (shared / dataset.name / "labelsTr" / "case3.nii.gz").unlink()
    assert "case3" in run("check", place, code=1)
    assert "the folder does not exist" in run("check", f"file://{shared}/nowhere", code=1)


def test_a_missing_run_is_named_by_its_url(shared: Path) -> None:
    told = run("status", f"file://{shared}/none.autoseg", code=1)
    assert f"no run folder at file://{shared}/none.autoseg; make one with: autoseg plan DATASET --run file://" in told
