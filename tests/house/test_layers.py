"""Gates that keep the architecture: laziness, lightness, purity."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def import_without(modules: list[str], imported: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys\nfor name in {modules!r}:\n    sys.modules[name] = None\nimport {imported}\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["autoseg.training.trainer", "autoseg.inference.model"])
def test_training_and_inference_need_no_image_library(package: str) -> None:
    done = import_without(["SimpleITK", "nibabel"], package)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "package", ["planners", "autoseg.workflows.plan.planning", "autoseg.measurement", "autoseg.workflows.folds.status"]
)
def test_planning_and_status_need_no_torch(package: str) -> None:
    done = import_without(["torch"], package)
    assert done.returncode == 0, done.stderr


def test_every_folder_is_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {name.rstrip("/") for line in readme.splitlines() for name in line.split() if name.endswith("/")}
    folders = {path.parent.name for top in ("autoseg", "planners") for path in (ROOT / top).rglob("*.py")}
    assert len(folders) > 10
    assert sorted(folders - named) == []


def test_the_picture_of_the_layers_is_the_import_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"## Layers\n.*?```text\n(.*?)```", text, flags=re.DOTALL)
    drawn = [re.split(r" {2,}", line)[0] for line in picture.splitlines() if not line.startswith(" ")]
    assert len(contract) > 5
    assert drawn == contract


def test_the_files_to_touch_for_an_addition_are_where_the_documentation_says() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, section = text.split("## Where to add what")
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| a")]
    assert len(rows) == 10
    new, touched = (re.findall("`(.*?)`", " ".join(row[column] for row in rows)) for column in (1, 2))
    assert [name for name in new if not (ROOT / name).parent.is_dir()] == []
    assert [name for name in touched if not (ROOT / name).is_file()] == []


def test_every_file_of_code_that_a_page_names_exists() -> None:
    pages = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
    named = {name for page in pages for name in re.findall(r"([a-z_0-9]+\.py)`", page.read_text(encoding="utf-8"))}
    folders = ("autoseg", "planners", "tests", "benchmarks")
    assert len(named) > 20
    assert sorted(named - {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}) == []


def test_everything_in_the_picture_of_a_run_is_in_the_table_of_what_it_tells_of_patients() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"## A run\n.*?\nRUN/\n(.*?)```", text, flags=re.DOTALL)
    lines = [re.split(r" {2,}", line.strip())[0] for line in picture.splitlines()]
    drawn = {re.sub(r"checkpoint_\w+", "checkpoint_*", name.rstrip("/")) for line in lines for name in line.split(", ")}
    page = (ROOT / "docs" / "how-to" / "share-a-model.md").read_text(encoding="utf-8")
    table = page.partition("## What a run folder holds")[2]
    assert len(drawn) > 20
    assert sorted(name for name in drawn if not re.search(rf"[`/]{re.escape(name)}[`/]", table)) == []


PICKLING = ("import pickle", "from pickle", "torch.save(", "allow_pickle=True", "torch.load(", "weights_only=False")
PICKLES_OF_OTHERS = {
    ("safe_unpickling.py", "from pickle"),  # an exception
    ("safe_unpickling.py", "torch.load("),  # restricted: tensors, containers and numbers
    ("nnunet_export.py", "torch.save("),  # nnU-Net reads nothing else
    ("case_jobs.py", "import pickle"),  # in a folder of one command, between it and its own jobs
}


def test_nothing_is_pickled_except_for_other_tools_and_between_processes_of_one_command() -> None:
    sources = [path for top in ("autoseg", "planners") for path in (ROOT / top).rglob("*.py")]
    assert sources
    found = {(path.name, word) for path in sources for word in PICKLING if word in path.read_text(encoding="utf-8")}
    assert found == PICKLES_OF_OTHERS


def test_pickles_of_others_are_read_by_the_restricted_reader() -> None:
    text = (ROOT / "autoseg" / "networks" / "safe_unpickling.py").read_text(encoding="utf-8")
    assert text.count("torch.load(") == text.count("weights_only=True)") == 1


PARSERS = ("json.load(", "json.loads(", "model_validate_json(", "literal_eval(", "yaml", "tomllib")
PARSING = {
    ("json_reading.py", "json.loads("),  # the one reader, with limits
    ("distributed.py", "model_validate_json("),  # between the processes of one training
    ("reader_process.py", "json.loads("),  # between a process and its own child
    ("isolation.py", "model_validate_json("),  # the same
    ("history.py", "model_validate_json("),  # a line of at most 64 KiB, by a parser with limits of its own
}


def test_json_is_parsed_by_one_reader() -> None:
    sources = [path for top in ("autoseg", "planners") for path in (ROOT / top).rglob("*.py")]
    assert sources
    found = {(path.name, word) for path in sources for word in PARSERS if word in path.read_text(encoding="utf-8")}
    assert found == PARSING
