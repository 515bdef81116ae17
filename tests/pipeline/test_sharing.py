"""A model of a real run in one file: it predicts like the run, and nobody learns from it whose images these were."""

import json
import re
import socket
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.balls import AFFINE, LABELS, make_case, save
from builders.command_line import run_autoseg
from builders.datasets import describe_dataset, write_dataset
from builders.plans import shorten
from PIL import Image

from autoseg.run_folder import FoldFolder, RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two trainings, each with the start of its processes

CASES = ("ZebraMueller1967", "QuaggaSchmidt1971", "OkapiJensen1982", "KuduLarsen1990", "ElandBergner2001")
HOSPITAL, USER, HOST = "KlinikumSteppe", "drgiraffe", "mriworkstation"


@pytest.fixture(scope="module")
def private_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases, subjects, folders, user and computer have names that occur nowhere else. Two folds, then selected."""
    folder = tmp_path_factory.mktemp("private") / HOSPITAL
    dataset, run = folder / "Dataset001_Balls", folder / f"{USER}.autoseg"
    cases = ((name, make_case(index)) for index, name in enumerate(CASES))
    described = {"licence": "CC-BY 4.0", "description": f"of {HOSPITAL}"}
    write_dataset(dataset, cases, labels=LABELS, affine=AFFINE, **described)
    (dataset / "groups.json").write_text(json.dumps({name: f"Subject{name}" for name in CASES}))
    splits = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:2], "val": CASES[2:]}]
    (dataset / "splits_final.json").write_text(json.dumps(splits))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("USER", USER), ("LOGNAME", USER), ("HOSTNAME", HOST)):
            patch.setenv(name, value)
        planned = run_autoseg("plan", dataset, "--run", run, "--configuration", "3d_fullres", "--workers", 1)
        assert planned.code == 0, planned.err
        assert "models of this dataset cannot be exported to nnU-Net" in planned.out
        shorten(run, "3d_fullres", epochs=2, iterations=15)
        train = ("train", run, "--configuration", "3d_fullres", "--device", "cpu", "--workers", 0)
        for arguments in ((*train, "--fold", 0), (*train, "--fold", 1), ("select", run)):
            done = run_autoseg(*arguments)
            assert done.code == 0, done.out + done.err
    return run


@pytest.fixture(scope="module")
def shared_file(private_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shared") / "balls.zip"
    done = run_autoseg("export", private_run, "--format", "autoseg", "--output", output)
    assert done.code == 0, done.err
    return output


def list_private_words(run: Path) -> list[str]:
    names = [*CASES, HOSPITAL, USER, HOST, socket.gethostname(), "_0000", "imagesTr", "labelsTr", *run.parts]
    return [name for name in names if len(name) > 3]  # shorter ones occur in weights by chance


def find_words(content: bytes, words: list[str]) -> set[str]:
    return {word for word in words if word.lower().encode() in content.lower()}


def test_nothing_in_the_file_says_whose_images_these_were(private_run: Path, shared_file: Path) -> None:
    words = list_private_words(private_run)
    files = [path for path in private_run.rglob("*") if path.is_file()]
    known = set().union(*(find_words(path.name.encode() + path.read_bytes(), words) for path in files))
    assert {*CASES, HOSPITAL, "imagesTr"} <= known  # the search finds what there is to be found
    with zipfile.ZipFile(shared_file) as archive:
        contents = {name: name.encode() + archive.read(name) for name in archive.namelist()}
    contents["the file itself"] = shared_file.read_bytes()
    card = contents.pop("README.md").replace(b"CASE_0000.nii.gz", b"")  # how files of any case are named
    found = {name: find_words(content, words) for name, content in (contents | {"README.md": card}).items()}
    found["the file itself"] -= {"_0000"}
    assert "quality_calibration.json" in found
    assert len(found) == 10
    assert {name: words for name, words in found.items() if words} == {}


def test_the_file_predicts_like_the_run_and_says_how_good_it_is(
    private_run: Path, shared_file: Path, tmp_path: Path
) -> None:
    save(tmp_path / "images" / "new_0000.nii.gz", make_case(70)[0])
    for model, out in ((private_run, "of_run"), (shared_file, "of_file")):
        done = run_autoseg("predict", model, tmp_path / "images", tmp_path / out, "--device", "cpu")
        assert done.code == 0, done.err
    first, second = (np.asarray(nib.load(tmp_path / out / "new.nii.gz").dataobj) for out in ("of_run", "of_file"))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) > 1
    with zipfile.ZipFile(shared_file) as archive:
        record, card = json.loads(archive.read("model.json")), archive.read("README.md").decode()
    assert record["configurations"]["3d_fullres"]["scores"]["cases"] == len(CASES)
    scores = json.loads((private_run / "crossvalidation.json").read_text())["configurations"]["3d_fullres"]
    assert record["configurations"]["3d_fullres"]["scores"] == scores
    assert "CC-BY 4.0" in card


def test_the_page_about_sharing_names_everything_in_a_run(private_run: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "share-a-model.md"
    if not page.is_file():
        pytest.skip("needs the sources: pages are not installed")
    table = page.read_text(encoding="utf-8").partition("## What a run folder holds")[2]
    models = private_run / "models" / "3d_fullres"
    entries = [*private_run.iterdir(), *models.iterdir(), *models.glob("fold_0/*"), *private_run.glob("preprocessed/*")]
    names = {entry.name for entry in entries}
    assert len(names) > 15
    for pattern, shown in (
        (r"checkpoint_.*\.safetensors", "checkpoint_*.safetensors"),
        (r"fold_\d", "fold_<k>"),
        (r"3d_fullres", "<configuration>"),
    ):
        names = {re.sub(pattern, shown, name) for name in names}
    properties = (name for name in vars(FoldFolder) if isinstance(getattr(FoldFolder, name), property))
    names |= {getattr(FoldFolder(Path("fold_<k>")), name).name for name in properties} - {
        f"checkpoint_{kind}.safetensors" for kind in ("latest", "best", "final")
    }
    properties = (name for name in vars(RunFolder) if isinstance(getattr(RunFolder, name), property))
    names |= {getattr(RunFolder(Path()), name).name for name in properties}
    missing = sorted(
        name for name in names if not re.search(rf"[`/ ]{re.escape(name)}[`/]", table) and name != "models"
    )
    assert missing == ["summary.json"]  # in `validation/`


def test_images_that_nnunet_cannot_read_are_told_when_planning_and_again_when_exporting(
    private_run: Path, tmp_path: Path
) -> None:
    dataset = tmp_path / "Dataset002_Photos"
    for part, ending, value in (("imagesTr", ".jpg", 90), ("labelsTr", ".png", 1)):
        (dataset / part).mkdir(parents=True)
        for index in range(5):
            picture = np.zeros((32, 32), np.uint8)
            picture[8:20, 5 + index : 20] = value
            Image.fromarray(picture).save(dataset / part / f"p{index}{ending}")
    labels = {"background": 0, "spot": 1}
    describe_dataset(dataset, channel_names={"0": "photo"}, labels=labels, file_ending=".jpg")
    done = run_autoseg("plan", dataset, "--run", tmp_path / "run", "--no-preprocess", "--workers", 1)
    assert done.code == 0, done.err
    note = "nnU-Net does not read .jpg files"
    assert note in " ".join(done.out.split())
    plan = (private_run / "models" / "3d_fullres" / "fold_0" / "plan.json").read_text()
    for path in (private_run / "models").rglob("plan.json"):
        path.write_text(plan.replace('".nii.gz"', '".jpg"'))
    refused = run_autoseg("export", private_run, "--format", "nnunet", "--output", tmp_path / "out")
    for path in (private_run / "models").rglob("plan.json"):
        path.write_text(plan)
    assert refused.code == 1
    assert note in refused.err
    assert not (tmp_path / "out").exists()
