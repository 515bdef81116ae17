"""Checks of PyTorch and its devices: GPUs, driver, compiler."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from autoseg.document import Part
from autoseg.workflows.doctor.finding import Finding, format_size
from autoseg.workflows.doctor.isolation import LONGEST_REASON, NoAnswerError, give_up

DRIVER_SECONDS: Final = 5.0
DRIVER_QUERY: Final = "name,driver_version,memory.total,memory.used"
DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")
# Oldest driver of a CUDA major version (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html)
OLDEST_DRIVERS: Final = {11: 450, 12: 525, 13: 580}
DRIVERS_PAGE: Final = "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"
INSTALL_PAGE: Final = "https://pytorch.org/get-started/locally/"
LARGEST_FOREIGN_SHARE: Final = 0.25  # of the memory of a GPU, used by other programs


class DriverFacts(Part):
    """Answer of nvidia-smi.

    Attributes:
        is_present: Whether there is an NVIDIA driver or its program.
        problem: Reason why nvidia-smi tells nothing; empty if it does, or there is no driver.
        version: Version of the driver; empty if unknown.
        gpus: One line for each GPU.
        used_share: Largest share of a GPU's memory that is in use.
        is_hidden: Whether CUDA_VISIBLE_DEVICES hides all GPUs.
    """

    is_present: bool
    problem: str = ""
    version: str = ""
    gpus: tuple[str, ...] = ()
    used_share: float = 0.0
    is_hidden: bool = False


class DeviceFacts(Part):
    """A CUDA device as PyTorch sees it.

    Attributes:
        capability: Compute capability, such as 9.0.
        is_built_for: Whether this PyTorch has kernels for it.
        problem: Reason why a small 3D convolution fails on it; empty if it does not.
    """

    name: str
    capability: str
    memory_bytes: int
    is_built_for: bool
    problem: str


class TorchFacts(Part):
    """PyTorch as it answers in a process of its own.

    Attributes:
        cuda: Version of CUDA that it was built for; empty if for none.
        hip: Version of ROCm that it was built for; empty if for none.
        cuda_problem: Message on using CUDA; empty if there is none.
        openmp: Names of the OpenMP libraries that it, NumPy and SciPy load.
        compiler: Path of the C++ compiler that torch.compile uses; empty if there is none.
        has_headers: Whether Python's C headers are installed, which torch.compile needs.
    """

    version: str
    import_seconds: float
    cuda: str
    hip: str
    cuda_problem: str
    devices: tuple[DeviceFacts, ...]
    architectures: tuple[str, ...]
    has_mps: bool
    openmp: tuple[str, ...]
    compiler: str
    has_headers: bool


def measure_driver(folder: Path) -> DriverFacts:
    """Asks nvidia-smi about the driver."""
    del folder
    return ask_driver()


def ask_driver(program: str = "nvidia-smi", *, limit_seconds: float = DRIVER_SECONDS) -> DriverFacts:
    """Asks nvidia-smi, which hangs where the driver does."""
    path = shutil.which(program)
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in {"", "-1"}
    if path is None:
        return DriverFacts(is_present=DRIVER_FILE.exists(), is_hidden=is_hidden)
    command = [path, f"--query-gpu={DRIVER_QUERY}", "--format=csv,noheader,nounits"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        out, _ = process.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        give_up(process)
        return DriverFacts(is_present=True, problem=f"no answer within {limit_seconds:.0f} s", is_hidden=is_hidden)
    rows = [[cell.strip() for cell in line.split(",")] for line in out.splitlines()]
    rows = [row for row in rows if len(row) == DRIVER_QUERY.count(",") + 1]
    if process.returncode != 0 or not rows:
        problem = " ".join(out.split())[:LONGEST_REASON] or f"exit code {process.returncode}"
        return DriverFacts(is_present=True, problem=problem, is_hidden=is_hidden)
    shares = [float(used) / float(total) for *_, total, used in rows if total.isdigit() and used.isdigit()]
    names = tuple(f"{name} ({total} MiB, {used} MiB in use)" for name, _, total, used in rows)
    share = max(shares, default=0.0)
    return DriverFacts(is_present=True, version=rows[0][1], gpus=names, used_share=share, is_hidden=is_hidden)


def measure_torch(folder: Path) -> TorchFacts:
    """Imports PyTorch and tries its devices."""
    del folder
    begin = time.monotonic()
    import torch

    seconds = time.monotonic() - begin
    import scipy.linalg  # noqa: F401  # loads its own libraries, as autoseg does
    from threadpoolctl import threadpool_info

    from autoseg.inference.execution.compiled_network import find_compiler

    devices, problem = _try_devices()
    return TorchFacts(
        version=torch.__version__,
        import_seconds=seconds,
        cuda=torch.version.cuda or "",
        hip=torch.version.hip or "",
        cuda_problem=problem,
        devices=devices,
        architectures=tuple(torch.cuda.get_arch_list()),
        has_mps=torch.backends.mps.is_available(),
        openmp=tuple(sorted({str(entry["prefix"]) for entry in threadpool_info() if entry["user_api"] == "openmp"})),
        compiler=find_compiler() or "",
        has_headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
    )


def check_torch(torch: TorchFacts) -> Iterator[Finding]:
    """Reports which PyTorch is used."""
    build = f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}" if torch.hip else "CPU"
    found = f"{torch.version}, built for {build}, loaded in {torch.import_seconds:.1f} s"
    yield Finding(state="ok", subject="PyTorch", found=found)


def explain_torch_failure(error: NoAnswerError) -> Finding:
    """Explains why PyTorch cannot be loaded."""
    found = f"cannot be loaded: {error}"
    if error.is_late:
        return Finding(
            state="warning",
            subject="PyTorch",
            found=found,
            meaning="the machine is very busy, the libraries lie on a slow disk, or the driver of the GPU hangs",
            remedy="repeat the command; then try CUDA_VISIBLE_DEVICES= autoseg doctor, and install on a local disk",
        )
    meaning = "training and prediction cannot start"
    remedy = "install autoseg anew in a fresh environment, with pip install -c constraints.txt"
    return Finding(state="will fail", subject="PyTorch", found=found, meaning=meaning, remedy=remedy)


def check_driver(driver: DriverFacts) -> Iterator[Finding]:
    """Checks the NVIDIA driver by itself."""
    if driver.problem:
        yield Finding(
            state="warning",
            subject="GPU driver",
            found=f"nvidia-smi: {driver.problem}",
            meaning="the driver does not work: programs that use the GPU fail or hang",
            remedy="restart the machine, which an update of the driver needs, too; then look for Xid in dmesg",
        )
    elif driver.version:
        found = f"{driver.version}: {'; '.join(driver.gpus)}"
        if driver.used_share <= LARGEST_FOREIGN_SHARE:
            yield Finding(state="ok", subject="GPU driver", found=found)
            return
        meaning = "other programs use the memory of a GPU: training on it may run out of memory and is slower"
        remedy = "nvidia-smi names them; end them, or choose another GPU with --device cuda:1"
        yield Finding(state="warning", subject="GPU driver", found=found, meaning=meaning, remedy=remedy)


def check_cuda(torch: TorchFacts, driver: DriverFacts) -> Iterator[Finding]:
    """Checks that PyTorch can use the NVIDIA GPUs that are there."""
    if torch.devices:
        return
    if driver.is_hidden and driver.is_present:
        found, meaning = "CUDA_VISIBLE_DEVICES hides all GPUs", "training runs on the CPU"
        remedy = "unset CUDA_VISIBLE_DEVICES"
        yield Finding(state="warning", subject="GPU", found=found, meaning=meaning, remedy=remedy)
    elif not driver.is_present or torch.hip:
        device = "Apple GPU (MPS)" if torch.has_mps else "none"
        yield Finding(state="ok", subject="GPU", found=device if torch.has_mps else "none; networks run on the CPU")
    elif not torch.cuda:
        yield Finding(
            state="warning",
            subject="GPU",
            found=f"this machine has an NVIDIA driver, but PyTorch {torch.version} is built for the CPU alone",
            meaning="training runs on the CPU, tens of times as slow",
            remedy="install a PyTorch that is built for CUDA",
            source=INSTALL_PAGE,
        )
    else:
        yield _explain_unusable(torch, driver)


def check_devices(torch: TorchFacts) -> Iterator[Finding]:
    """Checks each CUDA device."""
    for index, device in enumerate(torch.devices):
        found = (
            f"cuda:{index}: {device.name}, {format_size(device.memory_bytes)}, compute capability {device.capability}"
        )
        if device.is_built_for and not device.problem:
            yield Finding(state="ok", subject="GPU", found=found)
            continue
        built = ", ".join(torch.architectures)
        yield Finding(
            state="will fail",
            subject="GPU",
            found=f"{found}; {device.problem or 'no kernels for it'}",
            meaning=f"this PyTorch cannot compute on this GPU (it is built for {built})"
            if not device.is_built_for
            else "a small 3D convolution fails on this GPU",
            remedy="install a PyTorch that is built for this GPU, or take another with --device"
            if not device.is_built_for
            else "end other programs on this GPU; restart the machine if that does not help",
            source=INSTALL_PAGE if not device.is_built_for else "",
        )


def check_openmp(torch: TorchFacts) -> Iterator[Finding]:
    """Checks for two OpenMP libraries that do not work together."""
    if {"libiomp", "libomp"} <= set(torch.openmp):
        yield Finding(
            state="warning",
            subject="libraries",
            found="two OpenMP libraries are loaded: libiomp (Intel) and libomp (LLVM)",
            meaning="programs may crash or hang at random",
            remedy="install PyTorch, NumPy and SciPy from one source: all with pip, or all from conda-forge",
            source="https://github.com/joblib/threadpoolctl/blob/master/multiple_openmp.md",
        )


def check_compiler(torch: TorchFacts) -> Iterator[Finding]:
    """Checks for a C++ compiler and Python's headers, with which predictions on a CPU are compiled."""
    missing = [name for name, there in (("C++ compiler", torch.compiler), ("Python.h", torch.has_headers)) if not there]
    if not missing:
        yield Finding(state="ok", subject="compiler", found=f"{torch.compiler}, Python headers")
        return
    has_gpu = bool(torch.devices) or torch.has_mps
    yield Finding(
        state="ok" if has_gpu else "warning",
        subject="compiler",
        found=f"no {' and no '.join(missing)}",
        meaning="not needed on a GPU"
        if has_gpu
        else "long predictions on the CPU are not compiled, which makes them slower",
        remedy="" if has_gpu else "apt install g++ python3-dev, or pip install autoseg[openvino]",
        source="" if has_gpu else "https://github.com/pytorch/pytorch/issues/129351",
    )


def _try_devices() -> tuple[tuple[DeviceFacts, ...], str]:
    import torch

    from autoseg.runtime.device import try_cuda

    if not torch.version.cuda:
        return (), ""
    is_available, messages = try_cuda()
    if not is_available:
        return (), " ".join(messages) or "no CUDA device is available"
    return tuple(_try_device(index) for index in range(torch.cuda.device_count())), ""


def _try_device(index: int) -> DeviceFacts:
    import torch

    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    return DeviceFacts(
        name=properties.name,
        capability=".".join(map(str, capability)),
        memory_bytes=properties.total_memory,
        is_built_for=bool(torch.version.hip) or is_built_for(capability, torch.cuda.get_arch_list()),
        problem=_convolve(index),
    )


def is_built_for(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Returns whether a PyTorch with kernels for these architectures (sm_90, compute_90) runs on a device.

    Binary kernels run on devices of the same major version and at least their minor one; code for `compute_` is
    compiled by the driver for all later devices.
    """
    for name in architectures:
        kind, _, digits = name.partition("_")
        number = "".join(letter for letter in digits if letter.isdigit())
        if not number:
            continue
        built = (int(number[:-1]), int(number[-1]))
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def _convolve(index: int) -> str:
    import torch

    try:
        device = torch.device("cuda", index)
        image = torch.ones(1, 1, 8, 8, 8, device=device)
        result = torch.nn.functional.conv3d(image, torch.ones(1, 1, 3, 3, 3, device=device))
        return "" if float(result.mean()) == 27.0 else "a 3D convolution gives a wrong result"
    except RuntimeError as error:
        return " ".join(str(error).split())[:LONGEST_REASON]


def _explain_unusable(torch: TorchFacts, driver: DriverFacts) -> Finding:
    major = int(torch.cuda.partition(".")[0])
    oldest = OLDEST_DRIVERS.get(major, 0)
    version = driver.version.partition(".")[0]
    if version.isdigit() and int(version) < oldest and sys.platform.startswith("linux"):
        return Finding(
            state="will fail",
            subject="GPU",
            found=f"driver {driver.version}; PyTorch {torch.version} is built for CUDA {torch.cuda}",
            meaning=f"the driver is too old: CUDA {major} needs {oldest} or newer; training on the GPU fails",
            remedy=f"update the driver, or install a PyTorch that is built for CUDA {_find_supported(int(version))}",
            source=DRIVERS_PAGE,
        )
    return Finding(
        state="will fail",
        subject="GPU",
        found=f"PyTorch {torch.version}, built for CUDA {torch.cuda}, finds no device: {torch.cuda_problem}",
        meaning="this machine has an NVIDIA driver, but training on the GPU fails",
        remedy="in a container: docker run --gpus all; else restart the machine, and try nvidia-smi",
    )


def _find_supported(version: int) -> str:
    supported = [major for major, oldest in OLDEST_DRIVERS.items() if version >= oldest]
    return f"{max(supported)}" if supported else "of an earlier version"
