"""What a command does for each case does not depend on how many others there are: files are counted, not seconds."""

import gc
import os
import pickle
import sys
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pytest
from builders.labels import build_labels

from autoseg.dataset import Case, read_dataset
from autoseg.dataset.cases import Findings
from autoseg.dataset.folder_cases import find_folder_cases
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.measurement import measure_case
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import write_text
from autoseg.workflows.plan import planning
from autoseg.workflows.plan.header_survey import HeaderSurvey, survey_headers
from autoseg.workflows.plan.planning import PlanRequest, plan_dataset
from benchmarks import growth_stages
from benchmarks.growth_stages import CONFIGURATION, STAGES, Folders, write_dataset

SIZES: Final = (20, 30, 40)
LISTINGS: Final = ("os.listdir", "os.scandir")
OPENED_AT_MOST: Final = 25  # files for a case in one stage: formats are told apart by opening, and headers read first


class FileCounter:
    """Counts the files that are opened and the folders that are listed below a folder."""

    def __init__(self) -> None:
        self.place: str | None = None
        self.found: Counter[str] = Counter()
        sys.addaudithook(self.hear)  # for as long as the process runs

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.place is not None and event in ("open", *LISTINGS) and str(arguments[0]).startswith(self.place):
            self.found["opened" if event == "open" else "listed"] += 1

    def count(self, stage: str, folders: Folders) -> Counter[str]:
        self.place, self.found = str(folders.root), Counter()
        try:
            STAGES[stage](folders)
        finally:
            self.place = None
        return self.found


@pytest.fixture(scope="module")
def counter() -> FileCounter:
    return FileCounter()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, counter: FileCounter) -> Iterator[dict[str, list[Counter[str]]]]:
    """Counts of all stages that need no trained network, for each number of cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth_stages, "WORKERS", 1)
        patch.setattr("autoseg.workflows.evaluate.evaluation.count_evaluation_workers", lambda cases: 1)
        counts: dict[str, list[Counter[str]]] = {}
        for cases in SIZES:
            folders = Folders(root=tmp_path_factory.mktemp(f"cases_{cases}"))
            write_dataset(folders, cases)
            for stage in COUNTED:
                if stage == "evaluate":
                    write_text(folders.run.fold(CONFIGURATION, "all").final_checkpoint, "weights")
                for summary in folders.run.root.rglob("summary.json"):
                    os.utime(summary, (0, 0))  # what was written just now is read each time
                counts.setdefault(stage, []).append(counter.count(stage, folders))
        yield counts


COUNTED: Final = (
    "check",
    "folds",
    "plan",
    "preprocess",
    "plan again",
    "evaluate",
    "cross-validation",
    "status, 10 times",
)


@pytest.mark.parametrize("stage", COUNTED)
def test_each_further_case_opens_the_same_number_of_files(stage: str, made: dict[str, list[Counter[str]]]) -> None:
    few, more, most = (counts["opened"] for counts in made[stage])
    assert most - more == more - few


@pytest.mark.parametrize("stage", COUNTED)
def test_folders_are_listed_as_often_for_few_cases_as_for_many(stage: str, made: dict[str, list[Counter[str]]]) -> None:
    few, more, most = (counts["listed"] for counts in made[stage])
    assert few == more == most


def test_a_case_is_opened_by_few_stages_and_a_few_times(made: dict[str, list[Counter[str]]]) -> None:
    step = SIZES[1] - SIZES[0]
    of_case = {stage: (counts[1]["opened"] - counts[0]["opened"]) / step for stage, counts in made.items()}
    assert {stage for stage, opened in of_case.items() if opened} == {"check", "plan", "preprocess", "evaluate"}
    assert max(of_case.values()) <= OPENED_AT_MOST, of_case


def measure_bytes(build: Callable[[], Sequence[object]]) -> float:
    """Bytes of memory for one of the objects."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    built = build()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(built)


def test_while_a_folder_is_listed_little_is_kept_of_each_file(tmp_path: Path) -> None:
    cases = 400
    for folder, ending in (("imagesTr", "_0000.nii"), ("labelsTr", ".nii")):
        (tmp_path / folder).mkdir()
        for index in range(cases):
            (tmp_path / folder / f"case_{index:05d}{ending}").touch()
    gc.collect()
    tracemalloc.start()
    found = find_folder_cases(tmp_path, ("MR",), ending=".nii", findings=Findings())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == cases
    assert peak / cases <= 1100  # with paths 1,800


class DecidedError(Exception):
    pass


def test_planning_forgets_the_headers_before_it_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed: list[weakref.ref[Any]] = []

    def survey(cases: Sequence[Case]) -> HeaderSurvey:
        headers = survey_headers(cases)
        surveyed.append(weakref.ref(headers.grids))
        return headers

    def decide(fingerprint: Fingerprint, machine: Machine) -> NoReturn:
        assert len(fingerprint.cases) == 2
        raise DecidedError(surveyed[0]() is None)

    monkeypatch.setattr(planning, "survey_headers", survey)
    folders = Folders(root=tmp_path)
    write_dataset(folders, 2)
    request = PlanRequest(planner="default", machine=Machine(accelerator_memory_gb=None), workers=1)
    with pytest.raises(DecidedError, match="True"):
        plan_dataset(
            *(folders.dataset, folders.run.root, decide),
            request=request,
            report=lambda _: None,
            progress=SilentProgress(),
        )


def test_the_main_process_keeps_little_of_a_case(tmp_path: Path) -> None:
    folders = Folders(root=tmp_path)
    write_dataset(folders, 100)
    read_dataset(folders.dataset)  # loads modules
    assert measure_bytes(lambda: read_dataset(folders.dataset).cases) <= 150  # as objects 600
    cases = read_dataset(folders.dataset).cases
    survey_headers(cases[:1])
    assert measure_bytes(lambda: [survey_headers(cases).grids] * len(cases)) <= 250  # with a grid for each 1,200
    labels = build_labels({"large": (1,), "small": (2,)})
    measured = measure_case(
        *("case", np.ones((1, 8, 8, 8), np.float32), np.ones((8, 8, 8), np.int16)), spacing_mm=(1.0,) * 3, labels=labels
    )
    sent = pickle.dumps(measured)
    assert (
        measure_bytes(lambda: [pickle.loads(sent).fingerprint for _ in range(100)]) <= 1500
    )  # with names of its own 2,500
