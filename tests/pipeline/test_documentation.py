"""The code blocks of the documentation run as they stand."""

import itertools
import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import typer.main
from builders.balls import make_case, save
from builders.command_line import run_autoseg
from builders.dicom_series import STUDY, write_series
from builders.plans import shorten

from autoseg.cli.app import app
from autoseg.cli.view import view
from autoseg.labels import ClassTerms
from autoseg.plan.document import PREFERRED_CONFIGURATIONS
from planners import ARCHITECTURES, HEADS, PLANNERS
from planners.refinement import ENDING

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/how-to/python.md", "docs/how-to/stages.md")

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs the sources: pages are not installed")


def list_blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(dataset: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with everything that the pages name."""
    shutil.copytree(dataset, tmp_path / "Dataset001_Abdomen")
    shutil.copytree(trained_run, tmp_path / "abdomen.autoseg")
    image, label_map = make_case(200)
    save(tmp_path / "new_images" / "case_0000.nii.gz", image)
    save(tmp_path / "new_labels" / "case.nii.gz", label_map)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_quick_start_runs(place: Path) -> None:
    (block,) = list_blocks("README.md", "sh")
    shutil.rmtree(place / "abdomen.autoseg")
    commands = [shlex.split(line) for line in block.splitlines() if line]
    assert [command[1] for command in commands] == ["plan", "train", "predict", "evaluate"]
    for command in commands:
        assert command[0] == "autoseg"
        done = run_autoseg(*command[1:], cwd=place)
        assert done.code == 0, done.err
        if command[1] == "plan":  # nobody waits for a thousand epochs here
            for configuration in json.loads((place / "abdomen.autoseg" / "plan.json").read_text())["configurations"]:
                shorten(place / "abdomen.autoseg", configuration, epochs=1, iterations=10)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: str, place: Path) -> None:
    blocks = list_blocks(page, "python")
    assert blocks
    names = {"__name__": "__documentation__"}  # a page is read from its beginning, like a notebook
    for block in blocks:
        exec(compile(block, f"{place}: {page}", "exec"), names)


def test_the_page_about_dicom_runs(place: Path) -> None:
    """The second command and the snippet need the libraries of an extra."""
    voxels = np.random.default_rng(0).normal(size=(12, 20, 20)) * 300
    write_series(place / "scans" / "IMAGES", voxels, number=1, description="thorax")
    write_series(place / "scans" / "IMAGES", voxels, number=2, description="abdomen")
    block, shown = list_blocks("docs/how-to/dicom.md", "sh")
    first, second = (shlex.split(line) for line in block.splitlines())
    done = run_autoseg(*first[1:], cwd=place)
    assert done.code == 0, done.err
    assert len(list((place / "predictions").glob("*.nii.gz"))) == 2
    pytest.importorskip("highdicom", reason="highdicom is not installed (pip install 'autoseg[dicom]')")
    done = run_autoseg(*second[1:], cwd=place)
    assert done.code == 0, done.err
    endings = (".nii.gz", ".seg.dcm", ".rtstruct.dcm")
    assert sorted(path.name for path in (place / "chosen").glob(f"{STUDY}*")) == sorted(
        f"{STUDY}.1{ending}" for ending in endings
    )
    (snippet,) = list_blocks("docs/how-to/dicom.md", "python")
    exec(compile(snippet, "docs/how-to/dicom.md", "exec"), {})
    program, command, image, *label_maps, option, series = shlex.split(shown.replace("UID", f"{STUDY}.1"))
    assert (program, command, option) == ("autoseg", "view", "--series")
    view(Path(image), list(map(Path, label_maps)), series=series, out=place / "view.html", no_open=True)
    assert f"<h1>{STUDY}.1</h1>" in (place / "view.html").read_text(encoding="utf-8")


def test_the_terms_of_the_page_about_dicom_are_read() -> None:
    (block,) = list_blocks("docs/how-to/dicom.md", "json")
    terms = json.loads("{" + block + "}")["terms"]
    assert [ClassTerms.model_validate(entry).category is None for entry in terms.values()] == [True, False]


def test_the_first_hour_runs(dataset: Path, tmp_path: Path) -> None:
    """Every command of the page, in its order; only the training is shortened."""
    shutil.copytree(dataset / "imagesTr", tmp_path / "my_images" / "images")
    shutil.copytree(dataset / "labelsTr", tmp_path / "my_images" / "labels")
    image, label_map = make_case(200)
    save(tmp_path / "new_images" / "case_0000.nii.gz", image)
    save(tmp_path / "new_labels" / "case.nii.gz", label_map)
    commands = [
        shlex.split(line) for block in list_blocks("docs/how-to/first-hour.md", "sh") for line in block.splitlines()
    ]
    names = ["init", "check", "plan", "train", "status", "predict", "evaluate", "export", "predict"]
    assert [command[1] for command in commands] == names
    for command in commands:
        assert command[0] == "autoseg"
        done = run_autoseg(*command[1:], cwd=tmp_path)
        assert done.code == 0, done.err
        if command[1] in {"plan", "train"}:
            assert "to see it: autoseg report my.autoseg" in done.out
        if command[1] == "plan":
            assert "Forecast for this computer" in done.out
            shorten(tmp_path / "my.autoseg", "3d_fullres", epochs=1, iterations=10)
    assert (tmp_path / "my.autoseg" / "models" / "3d_fullres" / "fold_0" / "progress.png").is_file()
    maps = [tmp_path / folder / "case.nii.gz" for folder in ("predictions", "others")]
    assert maps[0].read_bytes() == maps[1].read_bytes()


def test_the_page_about_reports_runs(place: Path) -> None:
    commands = [
        shlex.split(line) for block in list_blocks("docs/how-to/report.md", "sh") for line in block.splitlines()
    ]
    assert [command[1] for command in commands] == ["report", "predict", "report", "view"]
    for command in commands:
        assert command[0] == "autoseg"
        done = run_autoseg(*command[1:], cwd=place)
        assert done.code == 0, done.err
    for page in ("abdomen.autoseg/report.html", "predictions.html", "case.html"):
        assert (place / page).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_page_about_clusters_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry runs need no Slurm."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place))
    (settings,) = list_blocks("docs/how-to/cluster.md", "json")
    (place / "abdomen.autoseg" / "slurm.json").write_text(settings)
    lines = [line for block in list_blocks("docs/how-to/cluster.md", "sh") for line in block.splitlines()]
    scripts = []
    for command in map(shlex.split, lines):
        assert command[0] == "autoseg"
        done = run_autoseg(*command[1:], cwd=place)
        assert done.code == 0, done.err
        scripts += [done.out] if "--dry-run" in command else []
    whole, one, several, preprocessing = scripts
    assert whole.count("#SBATCH --array=0-4%5") == 1
    assert "#SBATCH --job-name=autoseg-select" in whole
    assert {"#SBATCH --partition=long", "#SBATCH --time=2880"} <= set(one.splitlines())
    assert {"#SBATCH --nodes=2", "#SBATCH --gres=gpu:1", "#SBATCH --account=radiology"} <= set(several.splitlines())
    assert preprocessing.startswith("# Preprocessing: ")


def test_the_page_about_quality_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = list_blocks("docs/how-to/quality.md", "sh")
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [command[1] for command in commands] == ["select", "predict", "report"]
    for command in commands:
        assert command[0] == "autoseg"
        done = run_autoseg(*command[1:], cwd=place)
        assert done.code == 0, done.err
    assert len(list((place / "predictions" / "uncertainty").glob("case_*.nii.gz"))) == 2
    (snippet,) = list_blocks("docs/how-to/quality.md", "python")
    exec(compile(snippet, "docs/how-to/quality.md", "exec"), {})
    assert "held-out cases are too few to calibrate it" in capsys.readouterr().out


def test_every_command_that_a_page_shows_can_be_given() -> None:
    """Also those that are not run: their options exist, and what they name is in the table that it is taken from."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = {
        "--configuration": PREFERRED_CONFIGURATIONS,
        "--architecture": ARCHITECTURES,
        "--planner": PLANNERS,
        "--head": HEADS,
    }
    pages = ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
    counts = Counter[str]()
    for page in pages:
        blocks = [block for language in ("sh", "text") for block in list_blocks(page, language)]
        for line in (line for block in blocks for line in block.splitlines() if re.match("autoseg [a-z]", line)):
            _, name, *arguments = shlex.split(line, comments=True)
            commands[name].make_context(name, list(arguments))
            for option, value in itertools.pairwise(arguments):
                known = named.get(option)
                assert known is None or value.removesuffix(ENDING) in known, f"{page}: {line}"
            counts[page] += 1
    assert counts["docs/how-to/stages.md"] >= 10
    assert counts["docs/how-to/instances.md"] >= 7


def test_the_demonstration_takes_the_commands_of_the_page() -> None:
    page = (ROOT / "docs" / "how-to" / "first-hour.md").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = re.findall(r"^make (\w+)", page, flags=re.MULTILINE)
    assert named == ["demo"]
    assert set(named) <= set(targets)
    assert "(docs/how-to/first-hour.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
