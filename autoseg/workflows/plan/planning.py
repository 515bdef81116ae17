"""Plans a dataset: checks, measures, plans and preprocesses a folder of labelled images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from autoseg.dataset import (
    Dataset,
    DatasetRecord,
    allow_geometry_fixes,
    read_dataset,
    record_dataset,
    restore_dataset,
    tell_instances_apart,
)
from autoseg.document import read_document, write_document
from autoseg.errors import OptionError, RunError
from autoseg.exchange.nnunet_limits import describe_export_limits
from autoseg.files.temporary_files import remove_leftovers
from autoseg.fingerprint import DeviceThroughput, Fingerprint, Machine, TimedSteps
from autoseg.network_cost import NetworkCost
from autoseg.places.local import ThisComputer
from autoseg.places.place import Place
from autoseg.plan.document import Plan
from autoseg.plan.network import NetworkPlan
from autoseg.processes.fork_server import prepare_worker_context
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder, check_writable, make_folder, open_run, remove_folder
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.unet_cost import COUNTED_FAMILIES
from autoseg.workflows.cases.references import copy_reference
from autoseg.workflows.plan.case_warnings import note_instances, report_measurements
from autoseg.workflows.plan.class_counts import ClassCount
from autoseg.workflows.plan.header_survey import survey_headers
from autoseg.workflows.plan.host_speed import find_host_speed
from autoseg.workflows.plan.machine_survey import find_gpu, may_have_gpu, time_planned_steps
from autoseg.workflows.plan.measuring import describe_measuring, measure_dataset
from autoseg.workflows.plan.planner import CheckLabels, PlannerLike, PlanRule
from autoseg.workflows.plan.preprocessing import (
    WORKER_MODULES,
    check_has_data,
    describe_preprocessing,
    preprocess_dataset,
    select_data_configurations,
)
from autoseg.workflows.plan.run_protection import (
    describe_changes,
    has_models,
    refuse_foreign_folder,
    refuse_to_lose_models,
)
from autoseg.workflows.plan.splitting import DivisionIntoFolds, SplitRequest, check_same_folds, divide_into_folds

LATER_JOBS: Final = "# Preprocessing: a further array of jobs, whose memory follows from the plan"
PRESENT_NAMES: Final = {"lite": "timed"}  # of planners, by their names in earlier versions


def measure_device() -> DeviceThroughput:
    """Measures the throughput of the device that would train here, a CUDA device or else the CPU; torch is imported.

    An earlier measurement of this CPU that nothing disturbed is taken again, so that the same data give the same plan
    whatever else runs meanwhile.
    """
    from autoseg.networks.throughput import measure_gpu, measure_host

    gpu = find_gpu() if may_have_gpu() else None
    if gpu is None or gpu.device.type != "cuda":
        return find_host_speed(find_measurement_cache("host_speed"), measure=measure_host)
    return measure_gpu(gpu.device, name=gpu.name, memory_bytes=gpu.memory_bytes)


def find_network_cost(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
    """Counts what a network costs: in closed form where its family has one, else on the network itself with torch."""
    count = COUNTED_FAMILIES.get(network.family)
    if count is None:
        from autoseg.networks.cost import measure_cost

        return measure_cost(network, patch_voxels, batch_size)
    return count(network, patch_voxels, batch_size)


def build_plan_rule(
    planner: PlannerLike,
    *,
    measure: Callable[[], DeviceThroughput] = measure_device,
    time_steps: Callable[[Plan], TimedSteps | None] = time_planned_steps,
) -> PlanRule:
    """Builds a planning function that measures the device first if the planner needs it.

    Args:
        planner: Decides.
        measure: Measures the speed of the device that will train.
        time_steps: Times steps of a plan on a GPU, which executes them in other ways than single layers; the final plan
            is made with them.
    """

    def rule(fingerprint: Fingerprint, machine: Machine) -> Plan:
        decide = partial(planner.plan, fingerprint, measure_cost=find_network_cost)
        if not planner.measures_throughput:
            return decide(machine)
        throughput = measure()
        plan = decide(machine.model_copy(update={"throughput": throughput}))
        if throughput.is_cpu or (steps := time_steps(plan)) is None:
            return plan
        return decide(machine.model_copy(update={"throughput": throughput.model_copy(update={"steps": steps})}))

    return rule


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Options that the user chose.

    Attributes:
        planner: Name of the planner, as the plan records it.
        machine: Properties of the computer to plan for.
        configurations: Configurations to preprocess; empty for all planned ones.
        preprocess: Whether to preprocess after planning.
        workers: Number of processes; None chooses it from cores and free memory.
        overwrite: Replace an existing plan and its preprocessed data.
        split: Source of the folds.
        fix_geometry: Resample files on another grid than their case's first channel instead of refusing them.
        border_fraction: Width of the border by which objects are told apart (`InstanceTargets`); None: they are not.
        centre_steps: Steps of the centre distance that is learned of them, too; 0: it is not.
        check_labels: Checks the labels of dataset.json before any image is read; None: the planner alone does, later.
        place: Measures and preprocesses the cases.
        additions: Add configurations to the plan, also to that of a run which is continued.
        call: Options of the command line that make the same plan, as the run records them; None without one.
    """

    planner: str
    machine: Machine
    configurations: tuple[str, ...] = ()
    preprocess: bool = True
    workers: int | None = None
    overwrite: bool = False
    split: SplitRequest = field(default_factory=SplitRequest)
    fix_geometry: bool = False
    border_fraction: float | None = None
    centre_steps: int = 0
    check_labels: CheckLabels | None = None
    place: Place = field(default_factory=ThisComputer)
    additions: tuple[Callable[[Plan], Plan], ...] = ()
    call: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningOutcome:
    """Result of planning.

    Attributes:
        run: Run folder.
        plan: Plan of the run.
        is_new: False if the run had been planned before and was continued.
        written_cases: Number of cases that were preprocessed in this call.
    """

    run: RunFolder
    plan: Plan
    is_new: bool
    written_cases: int

    def describe(self) -> str:
        """Describes it in one line."""
        state = "planned" if self.is_new else "had been planned before; continued"
        return f"{self.run.root}: {state}, {self.written_cases} cases preprocessed"


def plan_dataset(
    dataset_folder: Path,
    run_root: Path | None,
    rule: PlanRule,
    *,
    request: PlanRequest,
    report: Callable[[Plan], None],
    report_classes: Callable[[Sequence[ClassCount]], None] = lambda classes: None,
    progress: Progress,
) -> PlanningOutcome:
    """Plans a dataset and preprocesses it; continues a run that was interrupted.

    Nothing is written before the whole dataset has passed its checks. `report_classes` and `report` receive the
    measured classes and the plan before preprocessing begins.

    Raises:
        DatasetError: Everything that is wrong with the dataset.
        OptionError: Centre distances are asked for, and objects are not told apart.
        PlanError: No plan exists, also for no labels like these, or it lacks a requested configuration.
        TrainingError: Folds or groups do not fit the cases.
        RunError: The run exists and was planned differently.
        CasesFailedError: Some cases could not be preprocessed.
    """
    if run_root is not None and not RunFolder(run_root).plan.is_file():
        prepare_worker_context(WORKER_MODULES)
    dataset = _read_dataset(dataset_folder, request)
    run = RunFolder(run_root if run_root is not None else Path(f"{dataset.name}.autoseg"))
    if run.root.resolve() == dataset.root.resolve():
        msg = f"the run folder must not be the dataset's own folder {dataset.root}; name another one with --run"
        raise RunError(msg)
    division = divide_into_folds(dataset, request.split)
    for note in (*dataset.notes, *note_instances(dataset), *division.notes, *describe_export_limits(dataset)):
        progress.note(note)
    is_new = not _can_continue(run, dataset, request)
    if run.plan.is_file():
        remove_leftovers(run.root)
    if not is_new and request.split != SplitRequest():
        check_same_folds(run, division.splits)
    plan_anew = partial(_plan_anew, dataset, run, rule, division=division, request=request, progress=progress)
    fingerprint = plan_anew() if is_new else read_document(run.fingerprint, Fingerprint)
    plan = _extend_plan(run, request)
    report_measurements(run, fingerprint, report_classes, preprocesses=request.preprocess, progress=progress)
    del fingerprint  # of all cases, which preprocessing needs no more
    report(plan)
    names = select_data_configurations(plan, request.configurations)
    for case in dataset.cases:  # so that validation works wherever the run is moved
        copy_reference(case, run.references)
    preprocess = partial(preprocess_dataset, dataset, run, plan, workers=request.workers, place=request.place)
    written = preprocess(configurations=names, progress=progress) if request.preprocess else 0
    return PlanningOutcome(run=run, plan=plan, is_new=is_new, written_cases=written)


def _read_dataset(folder: Path, request: PlanRequest) -> Dataset:
    dataset = read_dataset(folder)
    if request.fix_geometry:
        dataset = allow_geometry_fixes(dataset)
    if request.border_fraction is not None:
        dataset = tell_instances_apart(dataset, request.border_fraction, centre_steps=request.centre_steps)
    elif request.centre_steps:
        msg = "centre distances are learned of objects that are told apart; give --task instances, too"
        raise OptionError(msg)
    if request.check_labels is not None:
        request.check_labels(dataset.labels, dataset.targets, dataset.name)
    return dataset


def preprocess_run(
    run_root: Path,
    *,
    configurations: Sequence[str],
    workers: int | None,
    place: Place | None = None,
    progress: Progress,
) -> int:
    """Preprocesses missing and outdated arrays of a run, on this computer or elsewhere; returns the number of cases.

    Raises:
        DocumentError: The edited plan breaks the schema.
        RunError: There is no run, or its models were imported.
        DatasetError: The dataset is no longer at its place.
        CasesFailedError: Some cases failed.
    """
    planned = _open_planned(run_root, configurations)
    for note in planned.dataset.notes:
        progress.note(note)
    return preprocess_dataset(
        planned.dataset,
        planned.run,
        planned.plan,
        configurations=planned.configurations,
        workers=workers,
        place=place or ThisComputer(),
        progress=progress,
    )


def describe_preprocessing_run(run_root: Path, *, configurations: Sequence[str], place: Place) -> str:
    """Describes the jobs of `preprocess_run`; nothing is changed.

    Raises:
        AutosegError: As `preprocess_run`.
        OptionError: The place has no jobs.
    """
    planned = _open_planned(run_root, configurations)
    return describe_preprocessing(
        planned.dataset, planned.run, planned.plan, configurations=planned.configurations, place=place
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A planned run with its dataset, and the configurations whose arrays are wanted."""

    run: RunFolder
    plan: Plan
    dataset: Dataset
    configurations: tuple[str, ...]


def _open_planned(run_root: Path, configurations: Sequence[str]) -> _Planned:
    run = open_run(run_root)
    plan = read_document(run.plan, Plan)
    check_has_data(run, plan)
    dataset = restore_dataset(read_document(run.dataset, DatasetRecord))
    names = select_data_configurations(plan, configurations)
    return _Planned(run=run, plan=plan, dataset=dataset, configurations=names)


def describe_planning(dataset_folder: Path, run_root: Path | None, *, request: PlanRequest) -> str:
    """Describes the first jobs of `plan_dataset`; what further ones need follows from what those find.

    Raises:
        AutosegError: As `plan_dataset`.
        OptionError: The place has no jobs.
    """
    dataset = _read_dataset(dataset_folder, request)
    run = RunFolder(run_root if run_root is not None else Path(f"{dataset.name}.autoseg"))
    divide_into_folds(dataset, request.split)
    if _can_continue(run, dataset, request):
        return describe_preprocessing_run(run.root, configurations=request.configurations, place=request.place)
    scripts = describe_measuring(dataset, survey_headers(dataset.cases).grids, request.place)
    return f"{scripts}\n{LATER_JOBS}" if request.preprocess else scripts


def _extend_plan(run: RunFolder, request: PlanRequest) -> Plan:
    """Adds the wished configurations to the plan of a run, and the call to its record; no training depends on them."""
    plan = extended = read_document(run.plan, Plan)
    for add in request.additions:
        extended = add(extended)
    if extended != plan:
        write_document(run.plan, extended)
    record = read_document(run.dataset, DatasetRecord)
    if (called := record.add_plan_call(request.call)) != record:
        write_document(run.dataset, called)
    return extended


def _can_continue(run: RunFolder, dataset: Dataset, request: PlanRequest) -> bool:
    """Whether the run holds the plan that would be made now, and can be continued."""
    check_writable(run.root)
    if not run.root.exists() or not any(run.root.iterdir()):
        return False
    if not run.plan.is_file():
        refuse_foreign_folder(run)
        return False
    if request.overwrite:
        refuse_to_lose_models(run)
        return False
    earlier, now = read_document(run.dataset, DatasetRecord).drop_division(), record_dataset(dataset)
    plan = read_document(run.plan, Plan)
    if earlier == now and _follows_same_rules(plan, request):
        return True
    rules = f"with the planner {plan.planner!r} for {plan.accelerator_memory_gb:g} GB"
    reason = rules if earlier == now else f"from other data ({describe_changes(earlier, now)})"
    remedy = "" if has_models(run) else ", or replace its plan and preprocessed data with --overwrite"
    msg = f"{run.root} was planned {reason}; choose another folder with --run{remedy}"
    raise RunError(msg)


def _follows_same_rules(plan: Plan, request: PlanRequest) -> bool:
    machine = request.machine
    return (
        find_present_name(plan.planner) == find_present_name(request.planner)
        and machine.accelerator_memory_gb in (None, plan.accelerator_memory_gb)
        and machine.budget_seconds in (None, plan.budget_seconds)
    )


def find_present_name(planner: str) -> str:
    """Returns the present name of a planner that a plan may record by an earlier one, its options included."""
    name, space, options = planner.partition(" ")
    return f"{PRESENT_NAMES.get(name, name)}{space}{options}"


def _plan_anew(
    dataset: Dataset,
    run: RunFolder,
    rule: PlanRule,
    *,
    division: DivisionIntoFolds,
    request: PlanRequest,
    progress: Progress,
) -> Fingerprint:
    prepare_worker_context(WORKER_MODULES)
    headers = survey_headers(dataset.cases)
    for note in headers.notes:
        progress.note(note)
    fingerprint = measure_dataset(
        dataset, run, grids=headers.grids, workers=request.workers, place=request.place, progress=progress
    )
    del headers  # of all cases, which planning needs no more
    plan = rule(fingerprint, request.machine)
    select_data_configurations(plan, request.configurations)
    make_folder(run.root)
    if request.overwrite:
        remove_folder(run.root / "preprocessed")
        remove_folder(run.references)
        run.plan.unlink(missing_ok=True)  # at last: a folder with arrays and without a plan would be no run
    told = {"groups": dict(division.groups), "split_options": request.split.options}
    write_document(run.dataset, record_dataset(dataset).model_copy(update=told))
    write_document(run.fingerprint, fingerprint)
    write_document(run.splits, division.splits)
    write_document(run.plan, plan)
    return fingerprint
