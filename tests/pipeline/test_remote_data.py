"""The page about URLs: its commands give what they give in local folders, on one computer and on several."""

import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.balls import make_case, save
from builders.command_line import run_autoseg
from builders.hosts import HOST
from builders.plans import shorten
from builders.public_datasets import build_tree
from builders.scored_runs import build_planned_run
from safetensors.numpy import load_file

import autoseg
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.workflows.plan.host_speed import find_host_speed

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "remote-data.md"
DATASET = "Dataset001_Abdomen"
WEIGHTS = "models/3d_fullres/fold_0/checkpoint_final.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed"),
]


def run(*arguments: object, code: int = 0) -> str:
    done = run_autoseg(*arguments)
    assert done.code == code, done.err
    return done.out + done.err


def list_commands(place: str) -> list[list[list[str]]]:
    """The commands of each block of the page, without `autoseg`, for this place; training is for the CPU."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    words = [[shlex.split(line.replace("s3://bucket", place)) for line in block.splitlines()] for block in blocks]
    assert {command[0] for block in words for command in block} == {"autoseg"}
    more = {"plan": ["--configuration", "3d_fullres", "--workers", "1"], "preprocess": ["--workers", "1"]}
    device = {key: ["--device", "cpu"] for key in ("train", "select", "predict")}
    return [[[*command[1:], *(more | device).get(command[1], [])] for command in block] for block in words]


@pytest.fixture
def shared(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place that several computers reach, with a dataset and images."""
    shutil.copytree(dataset, tmp_path / "shared" / DATASET)
    for seed in (200, 201):
        image, label_map = make_case(seed)
        save(tmp_path / "shared" / "new_images" / f"new{seed}_0000.nii.gz", image)
        save(tmp_path / "shared" / "new_labels" / f"new{seed}.nii.gz", label_map)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first computer"))
    find_host_speed(find_measurement_cache("host_speed"), measure=lambda: HOST)  # which takes seconds
    return tmp_path / "shared"


def test_the_commands_of_the_page_give_what_local_ones_give(
    shared: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, published = f"file://{shared}", shared / "abdomen.autoseg"
    first, second, anywhere = list_commands(place)
    assert [command[0] for command in first] == ["check", "plan", "train"]
    assert f"{place}/{DATASET}: 6 cases, 0 problems" in run(*first[0])
    assert f"autoseg train '{place}/abdomen.autoseg'" in run(*first[1])  # the cache has a space in its name
    assert not (published / "preprocessed").exists()
    assert json.loads((published / "dataset.json").read_text())["source"] == f"{place}/{DATASET}"
    shorten(published, "3d_fullres", epochs=3, iterations=20)
    text = (published / "plan.json").read_text().replace(DATASET, "Dataset001_Balls")
    assert text == (trained_run / "plan.json").read_text()
    assert f"{place}/abdomen.autoseg/{WEIGHTS}" in run(*first[2])
    expected, found = load_file(trained_run / WEIGHTS), load_file(published / WEIGHTS)
    assert {name for name in expected if expected[name].tobytes() != found[name].tobytes()} <= {"checksums"}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second computer"))
    assert f"run: autoseg preprocess '{place}/abdomen.autoseg'" in run(*second[1], code=1)
    shorten(published, "3d_fullres", epochs=1, iterations=2)
    for command in second:
        run(*command)
    told = [run(*command) for command in anywhere]
    assert [command[0] for command in anywhere] == ["status", "select", "predict", "evaluate", "report"]
    assert told[0].count("finished") == 2
    assert f"2 label maps written in {place}/predictions" in told[2]
    assert (published / "report.html").stat().st_size > 10_000

    run("export", f"{place}/abdomen.autoseg", "--format", "autoseg", "--output", f"{place}/models/abdomen.zip")
    run("import", f"{place}/models/abdomen.zip", f"{place}/imported.autoseg")
    exported, imported = load_file(published / WEIGHTS), load_file(shared / "imported.autoseg" / WEIGHTS)
    assert {name: array.tobytes() for name, array in imported.items() if name != "checksums"} == {
        name: array.tobytes() for name, array in exported.items() if name in imported and name != "checksums"
    }

    shutil.copytree(published, tmp_path / "copied.autoseg")
    run("predict", tmp_path / "copied.autoseg", shared / "new_images", tmp_path / "local", "--device", "cpu")
    for seed in (200, 201):
        name = f"new{seed}.nii.gz"
        assert (shared / "predictions" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    image = f"{place}/new_images/new200_0000.nii.gz"
    label_map = autoseg.predict_volume(f"{place}/abdomen.autoseg", image, device="cpu")
    assert np.array_equal(label_map.get_fdata(), nib.load(shared / "predictions" / "new200.nii.gz").get_fdata())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first computer"))
    assert "0 label maps written, 2 finished earlier" in run(*anywhere[2])

    texts = [path.read_text(errors="replace") for path in shared.rglob("*.json*")]
    assert len(texts) > 10
    assert [text for text in texts if " computer" in text] == []


def test_commands_beside_those_of_a_run_take_urls_too(shared: Path, tmp_path: Path) -> None:
    place = f"file://{shared}"
    build_tree("kvasir", shared / "kvasir")
    written = run("convert", f"{place}/kvasir", f"{place}/polyps", "--workers", 1)
    assert f"written: {place}/polyps/dataset.json" in written
    run("convert", shared / "kvasir", tmp_path / "polyps", "--workers", 1)
    names = {path.relative_to(shared / "polyps") for path in (shared / "polyps").rglob("*") if path.is_file()}
    assert {
        path.relative_to(tmp_path / "polyps") for path in (tmp_path / "polyps").rglob("*") if path.is_file()
    } == names
    for name in names - {Path("conversion.json")}:
        assert (shared / "polyps" / name).read_bytes() == (tmp_path / "polyps" / name).read_bytes(), name
    assert json.loads((shared / "polyps" / "conversion.json").read_text())["source"] == f"{place}/kvasir"

    (shared / DATASET / "dataset.json").rename(tmp_path / "dataset.json")
    run("init", f"{place}/{DATASET}", "--workers", 1)
    drafted, known = (json.loads((folder / "dataset.json").read_text()) for folder in (shared / DATASET, tmp_path))
    assert (drafted["file_ending"], drafted["numTraining"]) == (known["file_ending"], known["numTraining"])

    image, label_map = f"{place}/new_images/new200_0000.nii.gz", f"{place}/new_labels/new200.nii.gz"
    run("view", image, label_map, "--out", f"{place}/view.html", "--no-open")
    run("view", *(word.removeprefix("file://") for word in (image, label_map)), "--out", tmp_path / "v", "--no-open")
    assert (shared / "view.html").read_bytes() == (tmp_path / "v").read_bytes()

    planned = f"file://{build_planned_run(shared / 'planned').root}"
    shutil.copytree(shared / "new_labels", shared / "predictions")
    scored = ("--run", planned, "--instances", f"{place}/new_labels")
    written = run("evaluate", f"{place}/predictions", f"{place}/new_labels", *scored)
    assert f"{place}/predictions/object_scores.json" in written
    objects = json.loads((shared / "predictions" / "object_scores.json").read_text())
    assert {of_class["pooled"]["AP"] for of_class in objects["classes"]["components"].values()} == {1.0}
    done = run_autoseg("doctor", planned, "--json")
    assert json.loads(done.out)["folder"] == planned, done.err


def test_problems_of_a_dataset_name_the_url(shared: Path) -> None:
    (shared / DATASET / "labelsTr" / "case3.nii.gz").unlink()
    assert "case3" in run("check", f"file://{shared}/{DATASET}", code=1)
    told = run("check", f"file://{shared}/nowhere", code=1)
    assert f"file://{shared}/nowhere" in told
    assert "the folder does not exist" in told


def test_a_missing_run_is_named_by_its_url(shared: Path) -> None:
    told = run("status", f"file://{shared}/none.autoseg", code=1)
    assert f"no run folder at file://{shared}/none.autoseg; make one with: autoseg plan DATASET --run 'file://" in told
