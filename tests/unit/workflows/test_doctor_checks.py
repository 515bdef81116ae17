"""Every check of `autoseg doctor`, over facts that are written down, not measured."""

import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from autoseg.runtime.host_memory import MemoryLimit, count_killed_processes, read_memory_limit
from autoseg.workflows.doctor.accelerator import (
    DeviceFacts,
    DriverFacts,
    TorchFacts,
    check_compiler,
    check_cuda,
    check_devices,
    check_driver,
    check_openmp,
    check_torch,
    explain_torch_failure,
    is_built_for,
)
from autoseg.workflows.doctor.cores import CoreFacts, check_cores, check_settings
from autoseg.workflows.doctor.disk import (
    DiskFacts,
    check_cache,
    check_file_clock,
    check_speed,
    check_temporary_folder,
    check_writing,
)
from autoseg.workflows.doctor.finding import Finding, State
from autoseg.workflows.doctor.isolation import NoAnswerError
from autoseg.workflows.doctor.known_problems import KNOWN_PROBLEMS, TESTED
from autoseg.workflows.doctor.libraries import (
    LibraryFacts,
    check_cluster,
    check_known_problems,
    check_python,
    check_requirements,
    check_tested_versions,
    measure_libraries,
    normalize_name,
)
from autoseg.workflows.doctor.memory import (
    MemoryFacts,
    check_killed_processes,
    check_ram,
    check_shared_memory,
    check_swap,
)
from autoseg.workflows.doctor.remote_cache import RemoteCacheFacts, check_remote_cache, measure_remote_cache
from autoseg.workflows.doctor.run_needs import NeedsFacts, check_needs, check_planned_memory, check_space
from autoseg.workflows.doctor.system import (
    SystemFacts,
    check_clock,
    check_encoding,
    check_open_files,
    check_processes,
)

ROOT = Path(__file__).parents[3]
GB = 10**9
H100 = DeviceFacts(name="H100", capability="9.0", memory_bytes=80 * GB, is_built_for=True, problem="")
TORCH = TorchFacts(
    version="2.13.0",
    import_seconds=1.3,
    cuda="13.0",
    hip="",
    cuda_problem="",
    devices=(H100,),
    architectures=("sm_80", "sm_90", "sm_120"),
    has_mps=False,
    openmp=("libgomp",),
    compiler="/usr/bin/g++",
    has_headers=True,
)
NO_GPU = {"cuda": "", "devices": (), "architectures": ()}
DRIVER = DriverFacts(is_present=True, version="580.65.06", gpus=("H100 (81559 MiB, 0 MiB in use)",))
NO_DRIVER = DriverFacts(is_present=False)
MEMORY = MemoryFacts(
    total_bytes=64 * GB,
    available_bytes=60 * GB,
    limit=None,
    killed=0,
    swap_used_bytes=0,
    shared_bytes=32 * GB,
    shared_free_bytes=32 * GB,
    is_shared_writable=True,
    needs_shared_memory=True,
)
CORES = CoreFacts(name="a CPU", architecture="x86_64", cores=16, usable=16, quota=None, settings={})
SYSTEM = SystemFacts(
    open_files=1024,
    further_processes=None,
    cores=16,
    encoding="utf-8",
    text_encoding="UTF-8",
    locale_names="LANG=de_DE.UTF-8",
    locale_problem="",
    year=2026,
    clock_seconds=0.3,
    monotonic_seconds=0.3,
)
DISK = DiskFacts(
    folder="/runs",
    file_system="ext4",
    mount="/",
    free_bytes=500 * GB,
    total_bytes=1000 * GB,
    free_files=10**7,
    write_rate=5e8,
    read_rate=5e8,
    small_file_seconds=0.001,
    temporary="/tmp",
    temporary_free_bytes=50 * GB,
    temporary_problem="",
    cache="/home/me/.cache/autoseg",
    is_cache_writable=True,
)
LIBRARIES = LibraryFacts(
    python="3.12.4",
    is_64_bit=True,
    tested_pythons=("3.11", "3.12"),
    required_python=">=3.11",
    requirements=("torch!=2.9.*,>=2.8", "numpy>=2", "scikit-image>=0.25"),
    versions={normalize_name(name): version for name, version in TESTED.items()},
    platform="linux",
)


def list_states(findings: Iterable[Finding]) -> list[State]:
    return [finding.state for finding in findings]


def find_one(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    if finding.state != "ok":
        assert finding.meaning
        assert finding.remedy
    return finding


# Libraries


def change_versions(**versions: str) -> LibraryFacts:
    changed = {name.replace("_", "-"): version for name, version in versions.items() if name != "python"}
    return LIBRARIES.model_copy(
        update={"versions": {**LIBRARIES.versions, **changed}, "python": versions.get("python", LIBRARIES.python)}
    )


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {normalize_name(Requirement(text).name) for text in project["dependencies"]}
    assert len(required) > 20
    assert {normalize_name(name): version for name, version in TESTED.items()} == {
        name: pinned[name] for name in required
    }


def test_this_installation_is_understood() -> None:
    facts = measure_libraries(ROOT)
    assert facts.versions["torch"] == importlib.metadata.version("torch")
    assert "3.11" in facts.tested_pythons
    assert any(text.startswith("torch") for text in facts.requirements)
    assert not any("extra" in text for text in facts.requirements)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"python": "3.10.12"}, "will fail"),
        ({"python": "3.13.1"}, "warning"),
        ({"is_64_bit": False}, "will fail"),
        ({"tested_pythons": ()}, "ok"),
    ],
)
def test_the_version_of_python_is_compared_with_the_tested_ones(changes: Mapping[str, Any], state: State) -> None:
    assert find_one(check_python(LIBRARIES.model_copy(update=changes))).state == state


def test_a_library_outside_of_the_requirements_is_named_with_the_command_that_repairs_it() -> None:
    assert list(check_requirements(LIBRARIES)) == []
    finding = find_one(check_requirements(change_versions(torch="2.4.1")))
    assert (finding.state, finding.found) == ("will fail", "torch 2.4.1")
    assert finding.remedy.startswith('pip install "torch')
    without = {name: version for name, version in LIBRARIES.versions.items() if name != "scikit-image"}
    finding = find_one(check_requirements(LIBRARIES.model_copy(update={"versions": without})))
    assert finding.found == "scikit-image is not installed"


def test_a_build_of_a_version_is_that_version() -> None:
    assert list(check_requirements(change_versions(torch="2.13.0+cu130"))) == []
    assert find_one(check_tested_versions(change_versions(torch="2.13.0+cu130"))).found == (
        f"all {len(TESTED)} in the tested versions"
    )


def test_a_slurm_without_the_library_that_submits_jobs_is_named() -> None:
    assert list(check_cluster(LIBRARIES)) == []
    here = LIBRARIES.model_copy(update={"has_slurm": True})
    finding = find_one(check_cluster(here))
    assert (finding.state, finding.remedy) == ("warning", "pip install 'autoseg[slurm]'")
    whole = here.model_copy(update={"versions": {**here.versions, "submitit": "1.5.4"}})
    assert find_one(check_cluster(whole)).found == "Slurm, with submitit 1.5.4"


def test_other_versions_than_the_tested_ones_are_named_and_allowed() -> None:
    finding = find_one(check_tested_versions(change_versions(numpy="2.3.0", torch="2.12.0")))
    assert finding.state == "ok"
    assert "2 of" in finding.found
    assert "numpy 2.3.0 (tested 2.4.6), torch 2.12.0 (tested 2.13.0)" in finding.found


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        ({"torch": "2.9.1", "nvidia_cudnn_cu12": "9.10.2.21"}, "torch 2.9.1 with nvidia-cudnn-cu12 9.10.2.21"),
        ({"torch": "2.9.0", "nvidia_cudnn_cu13": "9.13.0.50"}, "torch 2.9.0 with nvidia-cudnn-cu13 9.13.0.50"),
        ({"torch": "2.8.0", "nvidia_cudnn_cu12": "9.10.2.21"}, "torch 2.8.0 with nvidia-cudnn-cu12 9.10.2.21"),
        ({"torch": "2.9.1", "python": "3.14.0"}, "torch 2.9.1 with python 3.14.0"),
        ({"tensorboard": "2.20.0", "setuptools": "82.0.1"}, "tensorboard 2.20.0 with setuptools 82.0.1"),
        ({"torch": "2.2.2"}, f"torch 2.2.2 with numpy {TESTED['numpy']}"),
        ({"numpy": "1.26.4"}, f"blosc2 {TESTED['blosc2']} with numpy 1.26.4"),
        ({"simpleitk": "2.1.1"}, "simpleitk 2.1.1"),
    ],
)
def test_combinations_that_are_known_to_go_wrong_are_named_with_their_source(
    versions: Mapping[str, str], found: str
) -> None:
    findings = list(check_known_problems(change_versions(**versions)))
    assert found in [finding.found for finding in findings]
    for finding in findings:
        assert finding.state != "ok"
        assert finding.source.startswith("https://")


@pytest.mark.parametrize(
    "versions",
    [
        {},
        {"torch": "2.9.1", "nvidia_cudnn_cu12": "9.15.1.9"},
        {"torch": "2.9.1+cpu"},
        {"torch": "2.10.0", "nvidia_cudnn_cu12": "9.15.1.9", "python": "3.14.0", "setuptools": "82.0.1"},
        {"torch": "a private build"},
    ],
)
def test_combinations_that_work_are_not(versions: Mapping[str, str]) -> None:
    assert list(check_known_problems(change_versions(**versions))) == []


def test_a_problem_of_one_operating_system_is_none_of_another() -> None:
    problem = KNOWN_PROBLEMS[0]._replace(versions={"torch": ">=2"}, platform="darwin")
    assert list(check_known_problems(LIBRARIES, (problem,))) == []
    apple = LIBRARIES.model_copy(update={"platform": "darwin"})
    assert len(list(check_known_problems(apple, (problem,)))) == 1


# PyTorch and devices


def test_pytorch_is_reported_with_its_build() -> None:
    assert find_one(check_torch(TORCH)).found == "2.13.0, built for CUDA 13.0, loaded in 1.3 s"
    assert "built for CPU" in find_one(check_torch(TORCH.model_copy(update=NO_GPU))).found


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NoAnswerError("no answer in time", is_late=True), "warning"),
        (NoAnswerError("ImportError: libcudart.so.13"), "will fail"),
    ],
)
def test_a_pytorch_that_is_late_is_told_from_one_that_is_broken(error: NoAnswerError, state: State) -> None:
    finding = explain_torch_failure(error)
    assert finding.state == state
    assert str(error) in finding.found


@pytest.mark.parametrize(
    ("driver", "states"),
    [
        (NO_DRIVER, []),
        (DriverFacts(is_present=True), []),
        (DRIVER, ["ok"]),
        (DRIVER.model_copy(update={"used_share": 0.6}), ["warning"]),
        (DriverFacts(is_present=True, problem="no answer within 5 s"), ["warning"]),
    ],
)
def test_the_driver_is_judged_by_its_answer(driver: DriverFacts, states: list[State]) -> None:
    assert list_states(check_driver(driver)) == states


@pytest.mark.parametrize(
    ("torch", "driver", "state", "text"),
    [
        (NO_GPU, NO_DRIVER, "ok", "none; networks run on the CPU"),
        (NO_GPU | {"has_mps": True}, NO_DRIVER, "ok", "Apple GPU (MPS)"),
        (NO_GPU, DRIVER, "warning", "is built for the CPU alone"),
        ({"devices": ()}, DRIVER.model_copy(update={"is_hidden": True}), "warning", "hides all GPUs"),
        ({"devices": ()}, DRIVER.model_copy(update={"version": "550.54"}), "will fail", "built for CUDA 13.0"),
        ({"devices": (), "cuda_problem": "unknown error"}, DRIVER, "will fail", "finds no device: unknown error"),
        ({"devices": (), "cuda": "", "hip": "6.4"}, DRIVER, "ok", "none"),
    ],
)
def test_a_gpu_that_pytorch_cannot_use_is_explained(
    torch: Mapping[str, Any], driver: DriverFacts, state: State, text: str
) -> None:
    finding = find_one(check_cuda(TORCH.model_copy(update=torch), driver))
    assert finding.state == state
    assert text in finding.found


@pytest.mark.skipif(sys.platform != "linux", reason="drivers of other systems have other numbers")
def test_a_driver_that_is_too_old_is_told_which_pytorch_it_serves() -> None:
    torch = TORCH.model_copy(update={"devices": ()})
    finding = find_one(check_cuda(torch, DRIVER.model_copy(update={"version": "550.54.15"})))
    assert "CUDA 13 needs 580 or newer" in finding.meaning
    assert finding.remedy.endswith("built for CUDA 12")
    finding = find_one(check_cuda(torch, DRIVER.model_copy(update={"version": "418.1"})))
    assert finding.remedy.endswith("built for CUDA of an earlier version")


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({}, "ok", "cuda:0: H100, 80.0 GB, compute capability 9.0"),
        ({"is_built_for": False, "capability": "6.1"}, "will fail", "no kernels for it"),
        ({"problem": "CUDA out of memory"}, "will fail", "CUDA out of memory"),
    ],
)
def test_every_cuda_device_is_tried(changes: Mapping[str, Any], state: State, text: str) -> None:
    torch = TORCH.model_copy(update={"devices": (H100.model_copy(update=changes),)})
    assert list(check_cuda(torch, DRIVER)) == []
    finding = find_one(check_devices(torch))
    assert finding.state == state
    assert text in finding.found


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((6, 1), ["sm_75", "sm_80", "compute_90"], False),
        ((12, 0), ["sm_120"], True),
        ((9, 0), ["gfx90a", ""], False),
    ],
)
def test_kernels_serve_their_own_generation_of_gpus_and_portable_code_all_later_ones(
    capability: tuple[int, int], architectures: list[str], *, expected: bool
) -> None:
    assert is_built_for(capability, architectures) is expected


def test_two_openmp_libraries_that_do_not_work_together_are_named() -> None:
    assert list(check_openmp(TORCH)) == []
    assert list(check_openmp(TORCH.model_copy(update={"openmp": ("libgomp", "libiomp")}))) == []
    both = TORCH.model_copy(update={"openmp": ("libiomp", "libomp")})
    assert find_one(check_openmp(both)).state == "warning"


@pytest.mark.parametrize(
    ("changes", "state", "found"),
    [
        ({}, "ok", "/usr/bin/g++, Python headers"),
        ({"compiler": ""}, "ok", "no C++ compiler"),
        (NO_GPU | {"compiler": ""}, "warning", "no C++ compiler"),
        (NO_GPU | {"compiler": "", "has_headers": False}, "warning", "no C++ compiler and no Python.h"),
    ],
)
def test_a_compiler_is_missed_where_networks_run_on_the_cpu(
    changes: Mapping[str, Any], state: State, found: str
) -> None:
    finding = next(iter(check_compiler(TORCH.model_copy(update=changes))))
    assert (finding.state, finding.found) == (state, found)


# Memory


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"available_bytes": 4 * GB}, "warning"),
        ({"available_bytes": GB // 2}, "will fail"),
        ({"limit": MemoryLimit(limit_bytes=4 * GB, used_bytes=GB)}, "warning"),
        ({"limit": MemoryLimit(limit_bytes=2 * GB, used_bytes=3 * GB // 2)}, "will fail"),
        ({"limit": MemoryLimit(limit_bytes=640 * GB, used_bytes=639 * GB)}, "ok"),
    ],
)
def test_free_ram_is_that_within_the_limit_of_a_container(changes: Mapping[str, Any], state: State) -> None:
    assert find_one(check_ram(MEMORY.model_copy(update=changes))).state == state


def test_processes_that_a_memory_limit_has_ended_are_counted() -> None:
    assert list(check_killed_processes(MEMORY)) == []
    assert "3 times" in find_one(check_killed_processes(MEMORY.model_copy(update={"killed": 3}))).found


def test_much_swap_in_use_is_a_warning() -> None:
    assert find_one(check_swap(MEMORY)).state == "ok"
    assert find_one(check_swap(MEMORY.model_copy(update={"swap_used_bytes": 20 * GB}))).state == "warning"


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({}, ["ok"]),
        ({"shared_bytes": 64 * 10**6, "shared_free_bytes": 64 * 10**6}, ["warning"]),
        ({"shared_free_bytes": 10**6}, ["warning"]),
        ({"shared_bytes": None, "shared_free_bytes": None}, ["warning"]),
        ({"is_shared_writable": False}, ["warning"]),
        ({"shared_bytes": None, "shared_free_bytes": None, "needs_shared_memory": False}, []),
    ],
)
def test_shared_memory_of_a_container_s_default_size_is_a_warning(
    changes: Mapping[str, Any], states: list[State]
) -> None:
    assert list_states(check_shared_memory(MEMORY.model_copy(update=changes))) == states


def test_without_shared_memory_work_is_slower() -> None:
    (finding,) = check_shared_memory(MEMORY.model_copy(update={"shared_bytes": None}))
    assert "slower" in finding.meaning


def write_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_limit_of_a_control_group_is_read_in_both_versions(tmp_path: Path) -> None:
    own = tmp_path / "own"
    write_group(tmp_path / "two" / "a" / "b", memory__max="max\n", memory__current="7\n", memory__events="oom_kill 2\n")
    (tmp_path / "two" / "a" / "memory.max").write_text("1000\n")
    (tmp_path / "two" / "a" / "memory.current").write_text("400\n")
    own.write_text("0::/a/b\n")
    assert read_memory_limit(tmp_path / "two", own) == MemoryLimit(limit_bytes=1000, used_bytes=400)
    assert count_killed_processes(tmp_path / "two", own) == 2
    write_group(tmp_path / "one" / "memory" / "job", memory__limit_in_bytes="500\n", memory__usage_in_bytes="100\n")
    (tmp_path / "one" / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "one" / "memory" / "memory.usage_in_bytes").write_text("100\n")
    own.write_text("5:memory:/job\n4:cpu,cpuacct:/other\n")
    assert read_memory_limit(tmp_path / "one", own) == MemoryLimit(limit_bytes=500, used_bytes=100)
    assert count_killed_processes(tmp_path / "one", own) == 0
    assert read_memory_limit(tmp_path / "one", tmp_path / "absent") is None


# Cores and settings


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({}, "ok", "16 usable"),
        ({"quota": 4.0}, "ok", "4 usable"),
        ({"quota": 0.5}, "warning", "0.5 usable"),
        ({"usable": 1}, "warning", "1 usable"),
        ({"cores": 1, "usable": 1}, "ok", "1 usable"),
    ],
)
def test_few_cores_of_many_are_a_warning(changes: Mapping[str, Any], state: State, text: str) -> None:
    finding = next(iter(check_cores(CORES.model_copy(update=changes))))
    assert finding.state == state
    assert text in finding.found


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, []),
        ({"OMP_NUM_THREADS": "1"}, ["OMP_NUM_THREADS=1"]),
        ({"OMP_NUM_THREADS": "16", "MKL_NUM_THREADS": ""}, []),
        ({"OMP_NUM_THREADS": "64"}, ["OMP_NUM_THREADS=64"]),
        ({"OPENBLAS_NUM_THREADS": "1", "BLOSC_NTHREADS": "99"}, ["BLOSC_NTHREADS=99"]),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, ["OMP_WAIT_POLICY=PASSIVE"]),
        ({"CUDA_LAUNCH_BLOCKING": "1", "PYTORCH_NO_CUDA_MEMORY_CACHING": "0"}, ["CUDA_LAUNCH_BLOCKING=1"]),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ["CUDA_VISIBLE_DEVICES=-1"]),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, []),
    ],
)
def test_settings_that_make_computing_slow_are_named(settings: Mapping[str, str], found: list[str]) -> None:
    findings = list(check_settings(CORES.model_copy(update={"settings": settings})))
    assert [finding.found for finding in findings] == found


# System


@pytest.mark.parametrize(("limit", "state"), [(None, "ok"), (1024, "ok"), (256, "warning"), (20, "will fail")])
def test_few_open_files_are_a_warning(limit: int | None, state: State) -> None:
    assert find_one(check_open_files(SYSTEM.model_copy(update={"open_files": limit}))).state == state


@pytest.mark.parametrize(("further", "state"), [(None, "ok"), (4096, "ok"), (100, "warning"), (10, "will fail")])
def test_few_further_processes_are_a_warning(further: int | None, state: State) -> None:
    assert find_one(check_processes(SYSTEM.model_copy(update={"further_processes": further}))).state == state


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"encoding": "ascii"}, "warning"),
        ({"text_encoding": "ISO-8859-1"}, "warning"),
        ({"locale_problem": "unsupported locale setting"}, "warning"),
    ],
)
def test_an_encoding_without_umlauts_is_a_warning(changes: Mapping[str, Any], state: State) -> None:
    assert find_one(check_encoding(SYSTEM.model_copy(update=changes))).state == state


@pytest.mark.parametrize(
    ("changes", "state"),
    [({}, "ok"), ({"year": 1970}, "warning"), ({"year": 2106}, "warning"), ({"clock_seconds": 60.3}, "warning")],
)
def test_a_clock_that_is_wrong_or_jumps_is_a_warning(changes: Mapping[str, Any], state: State) -> None:
    assert find_one(check_clock(SYSTEM.model_copy(update=changes))).state == state


# Disk and run


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({}, ["ok"]),
        ({"write_problem": "Read-only file system"}, ["will fail"]),
        ({"rename_problem": "Operation not supported"}, ["will fail"]),
        ({"lock_problem": "No locks available"}, ["will fail"]),
        ({"name_problem": "Invalid argument"}, ["warning"]),
    ],
)
def test_a_folder_must_take_files_replace_them_and_lock_them(changes: Mapping[str, Any], states: list[State]) -> None:
    assert list_states(check_writing(DISK.model_copy(update=changes))) == states


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({}, ["ok"]),
        ({"file_system": "nfs4"}, ["ok"]),
        ({"write_rate": 5e6}, ["warning"]),
        ({"read_rate": 5e6}, ["warning"]),
        ({"small_file_seconds": 0.5}, ["warning"]),
        ({"write_rate": None}, []),
    ],
)
def test_a_slow_disk_is_a_warning(changes: Mapping[str, Any], states: list[State]) -> None:
    findings = list(check_speed(DISK.model_copy(update=changes)))
    assert list_states(findings) == states
    assert all(("network" in finding.found) == ("file_system" in changes) for finding in findings)


def test_a_file_system_whose_clock_differs_is_a_warning() -> None:
    assert list(check_file_clock(DISK)) == []
    finding = find_one(check_file_clock(DISK.model_copy(update={"clock_difference_seconds": -3600.0})))
    assert "-3600 s" in finding.found


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"temporary_free_bytes": 10**6}, "warning"),
        ({"temporary_problem": "Permission denied"}, "will fail"),
    ],
)
def test_a_temporary_folder_needs_space(changes: Mapping[str, Any], state: State) -> None:
    assert find_one(check_temporary_folder(DISK.model_copy(update=changes))).state == state


def test_a_cache_that_cannot_be_written_is_a_warning() -> None:
    assert list(check_cache(DISK)) == []
    assert find_one(check_cache(DISK.model_copy(update={"is_cache_writable": False}))).state == "warning"


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({}, ["ok"]),
        ({"is_used": False}, []),
        ({"free_bytes": 20 * GB}, ["warning"]),
        ({"free_bytes": 20 * GB, "held_bytes": 40 * GB}, ["ok"]),
        ({"file_system": "nfs4"}, ["warning"]),
        ({"limit_bytes": None, "problem": "AUTOSEG_REMOTE_CACHE_GB must be a number"}, ["will fail"]),
    ],
)
def test_the_cache_for_urls_is_on_a_local_disk_that_holds_its_size(
    changes: dict[str, object], states: list[str]
) -> None:
    cache = RemoteCacheFacts(
        folder="/home/me/.cache/autoseg/remote",
        file_system="ext4",
        is_used=True,
        held_bytes=10 * GB,
        limit_bytes=50 * GB,
        free_bytes=100 * GB,
    )
    found = list(check_remote_cache(cache.model_copy(update=changes)))
    assert list_states(found) == states
    assert all(finding.remedy for finding in found if finding.state != "ok")


def test_the_cache_for_urls_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSEG_REMOTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTOSEG_REMOTE_CACHE_GB", "2")
    assert not measure_remote_cache(tmp_path).is_used
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "image").write_bytes(bytes(100_000))
    facts = measure_remote_cache(tmp_path)
    assert facts.is_used
    assert facts.limit_bytes == 2e9
    assert 100_000 <= facts.held_bytes < 120_000
    monkeypatch.setenv("AUTOSEG_REMOTE_CACHE_GB", "much")
    assert "found 'much'" in measure_remote_cache(tmp_path).problem


@pytest.mark.parametrize(
    ("needs", "disk", "state"),
    [
        ({}, {}, "ok"),
        ({}, {"free_bytes": GB // 2}, "warning"),
        ({}, {"free_bytes": GB // 20}, "will fail"),
        ({"kind": "run", "needed_bytes": 100 * GB}, {}, "ok"),
        ({"kind": "run", "needed_bytes": 600 * GB}, {}, "will fail"),
        ({"kind": "dataset", "needed_bytes": 600 * GB}, {}, "warning"),
        ({}, {"free_files": 12}, "warning"),
        ({}, {"free_files": None}, "ok"),
    ],
)
def test_free_space_is_compared_with_what_a_run_needs(
    needs: Mapping[str, Any], disk: Mapping[str, Any], state: State
) -> None:
    facts = NeedsFacts(kind="folder").model_copy(update=needs)
    assert find_one(check_space(facts, DISK.model_copy(update=disk))).state == state


def test_a_gpu_smaller_than_planned_for_is_a_warning() -> None:
    assert list(check_planned_memory(NeedsFacts(kind="folder"), TORCH)) == []
    assert (
        list(check_planned_memory(NeedsFacts(kind="run", planned_memory_gb=8), TORCH.model_copy(update=NO_GPU))) == []
    )
    assert find_one(check_planned_memory(NeedsFacts(kind="run", planned_memory_gb=8), TORCH)).state == "ok"
    finding = find_one(check_planned_memory(NeedsFacts(kind="run", planned_memory_gb=100), TORCH))
    assert (finding.state, finding.remedy) == ("warning", "plan anew with autoseg plan --memory-gb 74")


def test_a_run_whose_needs_are_unknown_is_a_warning() -> None:
    assert list(check_needs(NeedsFacts(kind="run"))) == []
    assert find_one(check_needs(NeedsFacts(kind="run", problem="plan.json: not valid JSON"))).state == "warning"
