"""Checks of a run or dataset against the machine: disk space, memory of the GPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoseg.document import Part, read_document
from autoseg.errors import AutosegError
from autoseg.run_folder import RunFolder
from autoseg.workflows.doctor.accelerator import TorchFacts
from autoseg.workflows.doctor.disk import DATASET_FILE, LEAST_FREE_BYTES, DiskFacts
from autoseg.workflows.doctor.finding import Finding, format_size

if TYPE_CHECKING:
    from autoseg.workflows.plan.forecasting import RunForecast

FEWEST_FREE_FILES: Final = 10_000
PREPROCESSED_PER_IMAGE_BYTE: Final = 5  # guess: float32 in two or three configurations, compressed like the images
GIBIBYTE: Final = 2**30
TOLERATED_MEMORY_SHARE: Final = 0.9  # a GPU of "8 GB" reports somewhat less


class NeedsFacts(Part):
    """Needs of the run or dataset in a folder.

    Attributes:
        kind: "run", "dataset", or "folder" if it is neither.
        needed_bytes: Disk space that is still to be filled; None if unknown.
        planned_memory_gb: GPU memory that the plan was made for; None without a plan.
        problem: Reason why the needs are unknown; empty if there is none.
    """

    kind: str
    needed_bytes: int | None = None
    planned_memory_gb: float | None = None
    problem: str = ""


def measure_needs(folder: Path) -> NeedsFacts:
    """Measures what a run or dataset still needs."""
    run = RunFolder(folder)
    if run.plan.is_file():
        return _measure_run(run)
    if (folder / DATASET_FILE).is_file():
        images = sum(path.stat().st_size for path in folder.glob("images*/**/*") if path.is_file())
        return NeedsFacts(kind="dataset", needed_bytes=PREPROCESSED_PER_IMAGE_BYTE * images)
    return NeedsFacts(kind="folder")


def check_space(needs: NeedsFacts, disk: DiskFacts) -> Iterator[Finding]:
    """Checks the free space, against the needs of a run or dataset where they are known."""
    found = f"{format_size(disk.free_bytes)} of {format_size(disk.total_bytes)} free in {disk.folder}"
    if needs.needed_bytes is not None:
        found += f"; this {needs.kind} still needs about {format_size(needs.needed_bytes)}"
    remedy = "free space, or put the run on another disk; autoseg train keeps what is finished"
    if disk.free_bytes < max(LEAST_FREE_BYTES, needs.needed_bytes or 0):
        is_certain = disk.free_bytes < LEAST_FREE_BYTES // 10 or needs.kind == "run"
        meaning = "the disk will be full before all is done; commands then end with an error, and can be repeated"
        state = "will fail" if is_certain and disk.free_bytes < (needs.needed_bytes or LEAST_FREE_BYTES) else "warning"
        yield Finding(state=state, subject="disk space", found=found, meaning=meaning, remedy=remedy)
    elif disk.free_files is not None and disk.free_files < FEWEST_FREE_FILES:
        found += f"; only {disk.free_files} further files (inodes)"
        meaning = 'no further files can be made ("No space left on device") although there is space'
        yield Finding(state="warning", subject="disk space", found=found, meaning=meaning, remedy="remove small files")
    else:
        yield Finding(state="ok", subject="disk space", found=found)


def check_planned_memory(needs: NeedsFacts, torch: TorchFacts) -> Iterator[Finding]:
    """Checks the memory of the GPUs against that which the run was planned for."""
    if needs.planned_memory_gb is None or not torch.devices:
        return
    largest = max(device.memory_bytes for device in torch.devices)
    found = f"planned for {needs.planned_memory_gb:g} GB; the largest GPU has {largest / GIBIBYTE:.1f} GiB"
    if largest >= TOLERATED_MEMORY_SHARE * needs.planned_memory_gb * GIBIBYTE:
        yield Finding(state="ok", subject="GPU memory", found=found)
        return
    yield Finding(
        state="warning",
        subject="GPU memory",
        found=found,
        meaning="training may run out of GPU memory",
        remedy=f"plan anew with autoseg plan --memory-gb {largest // GIBIBYTE}",
    )


def check_needs(needs: NeedsFacts) -> Iterator[Finding]:
    """Reports a run whose needs cannot be determined."""
    if needs.problem:
        yield Finding(
            state="warning",
            subject="run",
            found=needs.problem,
            meaning="how much disk space the run needs is unknown",
            remedy="repeat `autoseg plan` if the plan is damaged or unfinished",
        )


def _measure_run(run: RunFolder) -> NeedsFacts:
    # Imported here, as most calls need none of it.
    from autoseg.plan.document import Plan
    from autoseg.workflows.plan.forecasting import forecast_run
    from autoseg.workflows.plan.machine_survey import MachineSurvey
    from autoseg.workflows.plan.planning import find_network_cost

    # Disk space does not depend on the speed of the machine.
    survey = MachineSurvey(device="", has_gpu=False, memory_bytes=0, costs={}, how="")
    try:
        plan = read_document(run.plan, Plan)
    except AutosegError as error:
        return NeedsFacts(kind="run", problem=str(error))
    facts = NeedsFacts(kind="run", planned_memory_gb=plan.accelerator_memory_gb)
    try:
        forecast = forecast_run(run.root, configurations=(), survey=lambda *_: survey, measure_cost=find_network_cost)
    except AutosegError as error:  # a run of imported models has no fingerprint
        return facts.model_copy(update={"problem": "" if not run.fingerprint.is_file() else str(error)})
    return facts.model_copy(update={"needed_bytes": max(0, _compute_needs(run, forecast))})


def _compute_needs(run: RunFolder, forecast: "RunForecast") -> int:
    """Computes the missing arrays, and the files of the folds that are not trained."""
    folds = 0
    for entry in forecast.configurations:
        finished = sum(run.fold(entry.name, str(fold)).final_checkpoint.is_file() for fold in range(forecast.folds))
        folds += entry.fold_bytes * (forecast.folds - finished)
    passing = forecast.passing_bytes if folds else 0
    return forecast.missing_bytes + folds + passing
