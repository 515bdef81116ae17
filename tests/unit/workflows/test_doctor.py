"""`autoseg doctor` examines the machine in time, whatever hangs or crashes, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.measurements import Facts, measure_and_crash, measure_and_fail, measure_and_hang, measure_well

from autoseg.document import Part, read_document, write_document
from autoseg.plan import Plan
from autoseg.processes.fold_lock import wait_for_lock
from autoseg.run_folder import RunFolder, write_text
from autoseg.workflows.doctor import disk
from autoseg.workflows.doctor.accelerator import ask_driver
from autoseg.workflows.doctor.checks import CHECKS, Check, examine_machine, measure_all
from autoseg.workflows.doctor.disk import find_existing, find_file_system, measure_disk
from autoseg.workflows.doctor.finding import DoctorReport, Finding
from autoseg.workflows.doctor.isolation import Measurement, NoAnswerError
from autoseg.workflows.doctor.run_needs import NeedsFacts, measure_needs

TESTS = Path(__file__).parents[2]


@pytest.fixture
def _builders_for_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def judge(facts: Facts) -> Iterator[Finding]:
    yield Finding(state="will fail", subject="number", found=str(facts.number))


@pytest.mark.usefixtures("_builders_for_child_processes")
def test_a_measurement_that_hangs_or_crashes_costs_its_own_result_alone(tmp_path: Path) -> None:
    folder = tmp_path / "seven_7"
    measures = (measure_and_hang, measure_and_crash, measure_and_fail, measure_well)
    begin = time.monotonic()
    results = measure_all(measures, folder, isolated=measures, limit_seconds=3.0)
    assert time.monotonic() - begin < 6.0
    assert results[measure_well] == Facts(number=7)
    reasons = {measure: str(error) for measure, error in results.items() if isinstance(error, NoAnswerError)}
    assert reasons[measure_and_hang] == "no answer in time"
    assert reasons[measure_and_crash] == "the process was killed by signal 9 (no message)"
    assert reasons[measure_and_fail] == "ValueError: the disk is on fire"


@pytest.mark.usefixtures("_builders_for_child_processes")
def test_a_measurement_that_is_given_up_is_ended(tmp_path: Path) -> None:
    measurement = Measurement(measure_and_hang, tmp_path)
    with pytest.raises(NoAnswerError) as raised:
        measurement.wait(0.0)
    assert raised.value.is_late
    assert measurement._process.wait(timeout=10) < 0


def examine(folder: Path, measure: Callable[[Path], Part]) -> DoctorReport:
    return examine_machine(folder, checks=(Check(judge, (measure,)),), isolated=())


def test_a_report_holds_what_the_checks_find_and_fails_if_something_will(tmp_path: Path) -> None:
    report = examine(tmp_path / "abc", measure_well)
    assert [(finding.subject, finding.found) for finding in report.findings] == [("number", "3")]
    assert report.fails


def test_a_failed_measurement_is_a_warning_and_its_checks_are_left_out(tmp_path: Path) -> None:
    report = examine(tmp_path, measure_and_fail)
    (finding,) = report.findings
    assert (finding.state, finding.found) == ("warning", "could not be examined: ValueError: the disk is on fire")
    assert not report.fails


def test_a_pytorch_that_cannot_be_loaded_will_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg.workflows.doctor import checks

    monkeypatch.setattr(checks, "measure_torch", measure_and_fail)
    (finding,) = examine(tmp_path, measure_and_fail).findings
    assert (finding.state, finding.subject) == ("will fail", "PyTorch")


def test_every_check_is_in_the_table_once() -> None:
    names = [check.judge.__name__ for check in CHECKS]
    assert len(names) == len(set(names)) > 20
    sources = (Path(disk.__file__).parent).glob("*.py")
    written = {
        line.split("(")[0][4:]
        for path in sources
        for line in path.read_text().splitlines()
        if line[:10] == "def check_"
    }
    assert written == set(names)


def test_the_command_answers_within_ten_seconds_in_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "Läufe"
    folder.mkdir()
    environment = dict(os.environ, HOME="/proc/none", XDG_CACHE_HOME="/proc/none", XDG_CONFIG_HOME="/proc/none")
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "autoseg", "doctor", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=TESTS.parent,
    )
    seconds = time.monotonic() - begin
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert done.returncode == any(finding["state"] == "will fail" for finding in report["findings"])
    assert seconds < 12.0  # on a busy machine; alone it is 3
    subjects = {finding["subject"] for finding in report["findings"]}
    assert {"Python", "libraries", "PyTorch", "CPU", "RAM", "disk space", "locale", "clock"} <= subjects
    assert list(folder.iterdir()) == []


def test_the_folder_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    facts = measure_disk(tmp_path)
    assert (facts.write_problem, facts.rename_problem, facts.lock_problem, facts.name_problem) == ("", "", "", "")
    assert facts.write_rate is not None
    assert facts.write_rate > 0
    assert facts.read_rate is not None
    assert facts.small_file_seconds is not None
    assert abs(facts.clock_difference_seconds) < 5
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above_it(tmp_path: Path) -> None:
    assert measure_disk(tmp_path / "new" / "run").folder == str(tmp_path)
    assert find_existing(tmp_path / "new" / "run") == tmp_path


def test_nothing_is_written_into_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "dataset.json").write_text("{}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert measure_disk(tmp_path / "dataset").folder == str(tmp_path / "here")


def test_a_file_system_without_locks_or_replacing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(disk, "wait_for_lock", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    facts = measure_disk(tmp_path)
    assert facts.lock_problem == facts.rename_problem == "No locks available"
    assert list(tmp_path.iterdir()) == []


def test_a_held_lock_elsewhere_does_not_disturb_the_examination(tmp_path: Path) -> None:
    with wait_for_lock(tmp_path / ".fold_0.lock", on_wait=lambda: None):
        assert measure_disk(tmp_path).lock_problem == ""


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="only Linux mounts /proc")
def test_the_nearest_mount_tells_the_file_system() -> None:
    assert find_file_system(Path("/proc/self"))[1] == "proc"


def write_program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_driver_s_program_is_given_up_when_it_hangs(tmp_path: Path) -> None:
    facts = ask_driver(write_program(tmp_path / "smi", "exec sleep 60"), limit_seconds=0.2)
    assert facts.is_present
    assert facts.problem == "no answer within 0 s"


@pytest.mark.parametrize(
    ("program", "expected", "share"),
    [
        ("echo 'NVIDIA H100, 550.54.15, 81559, 40779'", ("", "550.54.15"), 0.5),
        ("echo 'NVIDIA H100, 550.54.15, [N/A], [N/A]'", ("", "550.54.15"), 0.0),
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
            ("Failed to initialize NVML: Driver/library version mismatch", ""),
            0.0,
        ),
        ("exit 9", ("exit code 9", ""), 0.0),
    ],
)
def test_the_driver_s_program_is_understood(
    tmp_path: Path, program: str, expected: tuple[str, str], share: float
) -> None:
    facts = ask_driver(write_program(tmp_path / "smi", program))
    assert facts.is_present
    assert (facts.problem, facts.version) == expected
    assert facts.used_share == pytest.approx(share, abs=0.001)


def test_a_machine_without_the_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    facts = ask_driver("no-such-program")
    assert (facts.version, facts.problem, facts.is_hidden) == ("", "", True)


def test_a_run_needs_space_for_its_missing_arrays_and_folds(run: RunFolder) -> None:
    plan = read_document(run.plan, Plan)
    cases = tuple(build_case(shape=(8, 8, 8), name=name) for name in "abcd")
    write_document(run.fingerprint, build_fingerprint((1.0, 1.0, 1.0), (8, 8, 8), labels=plan.labels, cases=cases))
    untrained = measure_needs(run.root)
    assert (untrained.kind, untrained.planned_memory_gb) == ("run", plan.accelerator_memory_gb)
    assert untrained.needed_bytes is not None
    for name in plan.configurations:
        for fold in ("0", "1"):
            write_text(run.fold(name, fold).final_checkpoint, "weights")
    trained = measure_needs(run.root)
    assert trained.needed_bytes == 2 * 4 * 8**3 * (4 + 2)  # two kinds of arrays, four cases, image and labels
    assert untrained.needed_bytes > trained.needed_bytes


def test_a_damaged_plan_is_told(run: RunFolder) -> None:
    run.plan.write_text("{", encoding="utf-8")
    assert "not valid JSON" in measure_needs(run.root).problem


def test_a_run_of_imported_models_has_no_unknown_needs(run: RunFolder) -> None:
    run.fingerprint.unlink(missing_ok=True)
    facts = measure_needs(run.root)
    assert (facts.problem, facts.needed_bytes) == ("", None)


def test_a_dataset_needs_a_multiple_of_its_images(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "a_0000.nii.gz").write_bytes(bytes(1000))
    assert measure_needs(tmp_path) == NeedsFacts(kind="folder")
    (tmp_path / "dataset.json").write_text("{}", encoding="utf-8")
    assert measure_needs(tmp_path) == NeedsFacts(kind="dataset", needed_bytes=5000)
