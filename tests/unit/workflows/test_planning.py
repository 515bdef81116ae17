"""What a planner is given beside the fingerprint."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from builders import hosts
from builders.datasets import describe_dataset, write_dataset
from builders.hosts import GPU
from builders.progress import Notes

from autoseg.dataset import DatasetRecord, read_dataset, record_dataset
from autoseg.document import read_document, write_document
from autoseg.errors import RunError
from autoseg.fingerprint import DeviceThroughput, Fingerprint, Machine, TimedSteps
from autoseg.networks import throughput
from autoseg.networks.cost import measure_cost
from autoseg.networks.families import FAMILIES
from autoseg.networks.families.plain_unet import PlainUNet
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.unet_cost import count_plain_unet
from autoseg.workflows.plan import planning
from autoseg.workflows.plan.machine_survey import Gpu
from autoseg.workflows.plan.planning import (
    PlanRequest,
    build_plan_rule,
    find_network_cost,
    find_present_name,
    measure_device,
    plan_dataset,
    preprocess_run,
)
from autoseg.workflows.plan.run_protection import describe_changes, refuse_foreign_folder
from planners.refinement import add_refinement

HOST = DeviceThroughput(
    cores=2, memory_gb=25.0, number_type="float32", convolution_flops={16: 1e11}, elementwise_rate=1e9
)
MACHINE = Machine(accelerator_memory_gb=8)


def add_case(folder, name):
    for path in [*folder.glob("*Tr/p1_a*")]:
        (path.parent / path.name.replace("p1_a", name)).write_bytes(path.read_bytes())


def remove_case(folder, name):
    for path in [*folder.glob(f"*Tr/{name}*")]:
        path.unlink()


@dataclass
class NotingPlanner:
    answer: Plan
    measures_throughput: bool
    name: str = "noting"
    given: list = field(default_factory=list)

    def plan(self, fingerprint, machine, *, measure_cost=None):
        self.given.append((fingerprint, machine, measure_cost))
        return self.answer


@pytest.mark.parametrize("measures_throughput", [False, True])
def test_a_planner_gets_what_networks_cost_and_if_it_wants_the_speed_of_the_cpu(run, *, measures_throughput):
    plan, fingerprint = read_document(run.plan, Plan), Fingerprint.model_construct(dataset_name="a")
    planner = NotingPlanner(answer=plan, measures_throughput=measures_throughput)
    assert build_plan_rule(planner, measure=lambda: HOST)(fingerprint, MACHINE) is plan
    machine = MACHINE.model_copy(update={"throughput": HOST}) if measures_throughput else MACHINE
    ((_, given_machine, measure),) = planner.given
    assert (given_machine, measure) == (machine, find_network_cost)


STEPS = TimedSteps(configuration="3d_fullres", seconds=(0.01, 0.012))


@pytest.mark.parametrize(("device", "steps", "count"), [(GPU, STEPS, 2), (GPU, None, 1), (HOST, STEPS, 1)])
def test_steps_of_what_is_planned_by_layers_are_timed_on_a_gpu_alone(run, device, steps, count):
    plan, planner = (
        read_document(run.plan, Plan),
        NotingPlanner(answer=read_document(run.plan, Plan), measures_throughput=True),
    )
    rule = build_plan_rule(planner, measure=lambda: device, time_steps=lambda planned: planned == plan and steps)
    assert rule(Fingerprint.model_construct(dataset_name="a"), MACHINE) == plan
    throughputs = [machine.throughput for _, machine, _ in planner.given]
    assert throughputs == [device, device.model_copy(update={"steps": STEPS})][:count]


@pytest.fixture
def configuration(run):
    return read_document(run.plan, Plan).configurations["3d_lowres"]


def test_an_unknown_family_is_measured_on_its_network(configuration, monkeypatch):
    monkeypatch.setitem(FAMILIES, "dummy", PlainUNet)
    network = configuration.network.model_copy(update={"family": "dummy", "features_per_stage": (4, 8)})
    plain = network.model_copy(update={"family": "plain_unet"})
    assert find_network_cost(network, (8, 8, 8), 2) == measure_cost(plain, (8, 8, 8), 2)


def test_a_family_that_nobody_builds_never_counts_as_another_one(configuration):
    network = configuration.network.model_copy(update={"family": "dummy"})
    with pytest.raises(KeyError, match="dummy"):
        find_network_cost(network, (8, 8, 8), 2)


def test_networks_with_a_closed_form_are_counted_without_torch(configuration):
    assert configuration.network.family == "plain_unet"
    assert find_network_cost(configuration.network, (8, 8, 8), 2) == count_plain_unet(
        configuration.network, (8, 8, 8), 2
    )
    code = "import sys; sys.modules['torch'] = None; import autoseg.unet_cost, autoseg.workflows.plan.planning"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_preprocessing_tells_of_files_that_have_changed_since_they_were_planned(run, tmp_path, monkeypatch):
    image = np.zeros((4, 4, 4), np.uint8)
    root = write_dataset(tmp_path / "data", [(case, (image, image)) for case in "ab"], labels={"x": 1})
    write_document(run.dataset, record_dataset(read_dataset(root)))
    monkeypatch.setattr(planning, "preprocess_dataset", lambda *arguments, **options: 0)
    (root / "labelsTr" / "b.nii.gz").touch()
    notes = Notes()
    preprocess_run(run.root, configurations=(), workers=1, progress=notes)
    assert "(b) have another size or time" in notes.text


def test_a_new_run_may_hold_settings_for_jobs_and_nothing_else(tmp_path):
    for name in ("slurm.json", "splits.json", "notes.txt"):
        (tmp_path / name).touch()
        with pytest.raises(RunError, match="notes") if name == "notes.txt" else nullcontext():
            refuse_foreign_folder(RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("recorded", "present"),
    [
        ("lite", "timed"),
        ("lite --architecture u_net --loss dice", "timed --architecture u_net --loss dice"),
        ("timed", "timed"),
        ("default", "default"),
    ],
)
def test_a_planner_that_was_renamed_continues_plans_of_its_earlier_name(recorded, present):
    assert find_present_name(recorded) == present


def test_a_cpu_that_was_measured_is_not_measured_again(monkeypatch):
    monkeypatch.setattr(planning, "may_have_gpu", lambda: False)
    monkeypatch.setattr(throughput, "measure_host", lambda: pytest.fail("measured again"))
    assert measure_device() == hosts.HOST  # which the cache of the tests holds


@pytest.mark.parametrize(("device", "measured"), [(None, HOST), ("mps", HOST), ("cuda", GPU)])
def test_the_device_that_would_train_is_measured(device, measured, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu = None if device is None else Gpu(device=torch.device(device), name="a GPU", memory_bytes=10**9)
    monkeypatch.setattr(planning, "may_have_gpu", lambda: True)
    monkeypatch.setattr(planning, "find_gpu", lambda: gpu)
    monkeypatch.setattr(throughput, "measure_host", lambda: HOST)
    monkeypatch.setattr(throughput, "measure_gpu", lambda device, *, name, memory_bytes: GPU)
    assert measure_device() == measured


def test_a_run_that_is_planned_may_get_another_configuration_later(dataset, run, tmp_path):
    plan, root = read_document(run.plan, Plan), tmp_path / "new"

    def request(*additions, call=None):
        return PlanRequest(planner="test", machine=MACHINE, preprocess=False, workers=1, additions=additions, call=call)

    def read_calls():
        return read_document(RunFolder(root).dataset, DatasetRecord).plan_calls

    def start(request):
        return plan_dataset(
            dataset, root, lambda *_: plan, request=request, report=lambda _: None, progress=SilentProgress()
        )

    calls = ("--planner", "test"), ("--refine", "2d", "--refine", "3d_lowres")
    assert start(request(call=calls[0])).plan == plan
    assert read_calls() == calls[:1]
    additions = partial(add_refinement, previous="2d"), partial(add_refinement, previous="3d_lowres")
    outcome = start(request(*additions, call=calls[1]))
    assert not outcome.is_new
    assert list(outcome.plan.configurations) == [*plan.configurations, "2d_refine", "3d_lowres_refine"]
    assert {name: outcome.plan.configurations[name] for name in plan.configurations} == plan.configurations
    assert read_document(RunFolder(root).plan, Plan) == outcome.plan
    assert start(request(call=calls[0])).plan == outcome.plan
    assert read_calls() == calls  # in their order, each once
    start(request())  # from Python
    start(request(call=()))  # without options, which preprocesses all configurations
    assert read_calls() == (*calls, ())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "imagesTr" / "p1_a_0000.nii.gz").touch(), r"of another size or time: p1_a\)"),
        (
            lambda folder: describe_dataset(folder, labels={"background": 0, "big": 2, "tiny": 5}),
            r"\(different labels\)",
        ),
        (lambda folder: describe_dataset(folder, channel_names={"0": "CT"}), r"\(different channels\)"),
        (lambda folder: remove_case(folder, "p3_b"), r"\(cases only there: p3_b\)"),
        (lambda folder: add_case(folder, "p4_a"), r"\(cases not there: p4_a\)"),
        (lambda folder: folder.rename(folder.with_name("Renamed")), "name: Dataset001_X there, Renamed now; place: .*"),
    ],
)
def test_a_run_of_other_data_is_refused_with_what_differs(dataset, run, tmp_path, *, change, told):
    plan, root = read_document(run.plan, Plan), tmp_path / "new"

    def start():
        (folder,) = tmp_path.glob("*/imagesTr")
        request = PlanRequest(planner="test", machine=MACHINE, preprocess=False, workers=1)
        return plan_dataset(
            folder.parent, root, lambda *_: plan, request=request, report=lambda _: None, progress=SilentProgress()
        )

    assert start().is_new
    assert not start().is_new
    change(dataset)
    with pytest.raises(RunError, match=rf"was planned from other data .*{told}.*; choose .*--run, or .*--overwrite"):
        start()
    RunFolder(root).fold("2d", "0").root.mkdir(parents=True)
    with pytest.raises(RunError, match=r"choose another folder with --run$"):
        start()


def test_cases_with_other_files_of_the_same_size_and_time_are_not_said_to_differ_in_these_alone(dataset):
    record = record_dataset(read_dataset(dataset))
    first, *others = record.cases
    moved = record.model_copy(update={"cases": (first.model_copy(update={"images": ("moved.nii.gz",)}), *others)})
    assert describe_changes(record, moved) == "cases with other files, or files of another size or time: p1_a"


def test_an_interruption_while_an_earlier_plan_is_removed_leaves_a_run(dataset, run, tmp_path, monkeypatch):
    plan, root = read_document(run.plan, Plan), tmp_path / "new"

    def start(*, overwrite):
        request = PlanRequest(planner="test", machine=MACHINE, preprocess=False, workers=1, overwrite=overwrite)
        return plan_dataset(
            dataset, root, lambda *_: plan, request=request, report=lambda _: None, progress=SilentProgress()
        )

    def interrupt(path):
        raise KeyboardInterrupt

    start(overwrite=False)
    RunFolder(root).preprocessed("2d").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(planning, "remove_folder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            start(overwrite=True)
    assert start(overwrite=True).is_new
    assert not RunFolder(root).preprocessed("2d").exists()
