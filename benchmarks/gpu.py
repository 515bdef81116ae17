"""Everything that a GPU is judged by, in parts of a few minutes: `python -m benchmarks.gpu --only step-128 floor`.

Without `--only` all parts but `five-folds` run. A part that lacks something says so and how to supply it; one that
fails says why, and the next one runs. Other processes are ended when the time is over. `--tiny` runs the same code with
small networks, on a CPU too; its figures mean nothing.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from autoseg.dataset.folds import Fold
from autoseg.document import read_document
from autoseg.inference.execution.choice import PreparedNetworks, Setting, list_available
from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.networks.blocks import CHANNELS_LAST
from autoseg.networks.families import build_network
from autoseg.plan import ConfigurationPlan, Plan
from autoseg.preprocessing.cache import list_cases
from autoseg.run_folder import RunFolder
from autoseg.runtime.device import collect_garbage, describe_error, select_kernels
from autoseg.runtime.precision import DtypeName, find_dtype
from autoseg.training.budget.execution_decision import list_variants
from autoseg.training.data.batch_making import build_source
from autoseg.training.data.randomness import BatchKey
from autoseg.training.execution import TrainingExecution
from autoseg.training.execution_choice import choose_execution
from autoseg.training.learner import Learner
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner, launch_training_step
from autoseg.workflows.synthetic import write_synthetic_dataset
from benchmarks.gpu_networks import LABELS, draw_batch, plan_shape
from benchmarks.gpu_prediction import prepare, time_prediction, time_volume
from benchmarks.machine import describe_machine
from benchmarks.preprocessing import DEFAULT_DATA, DEFAULT_PEER

CONVOLUTIONS: Final = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
VIEWS: Final = frozenset({"view", "slice", "select", "unsqueeze", "expand", "permute", "detach", "alias", "t"})
"""Operations that launch nothing."""
PADDED_CHANNELS: Final = 8  # as many as the matrix units of a GPU read at once in 16 bits
DICE_BUDGET: Final = "4m"
MINUTES: Final = 9.0
MANY_ITERATIONS: Final = 10**9  # for which every execution is worth a trial
FOLDS: Final = 5
EXPECTED_SECONDS: Final[Mapping[str, float]] = {
    **dict.fromkeys(("step-hippocampus", "step-128", "step-2d", "step-resenc"), 20.0),
    **{"waiting": 60.0, "prediction": 70.0, "predict-volume": 10.0, "dice": 280.0, "batches": 15.0},
    **{"kernels": 10.0, "floor": 15.0, "five-folds": 280.0},
}
"""About how long a part takes on a GPU (guesses, until one has run them all); of `five-folds`, one fold. The first step
holds the start of nnU-Net, which times all of them; what is compared most is measured first."""
COMPILING_PARTS: Final = frozenset({"step-hippocampus", "step-128", "step-2d", "step-resenc", "waiting", "prediction"})
COMPILING_SECONDS: Final = 120.0
WAITING_ITERATIONS: Final = 150
ALL_AXES: Final = (0, 1, 2)
MIRRORING: Final = ("no mirroring", "mirroring")
PEER_SCRIPT: Final = Path(__file__).with_name("peer_gpu.py")
SECONDS_TO_END: Final = 10.0  # in which a training saves its state
Command = Callable[..., str]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSettings:
    """What is measured, where.

    Attributes:
        steps: Number of timed repetitions.
        compiles: Whether compiling is tried, which takes a minute or two for every network.
        steps_of_peer: Seconds of a step of nnU-Net by the shape, which it measures all at once; the shapes that are
            asked for, with None beforehand and not a number where there is no time.
        run: Runs Python with arguments, by this interpreter or another one, and returns what it printed.
        end: Time of the clock after which nothing is begun, and no other process runs.
    """

    device: torch.device
    dtype: DtypeName
    dataset: Path
    peer: Path
    work: Path
    steps: int
    is_tiny: bool
    compiles: bool
    steps_of_peer: dict[str, float | None]
    run: Command
    end: float = math.inf

    def expect(self, part: str) -> float:
        """Returns about how many seconds a part takes."""
        compiling = COMPILING_SECONDS if self.compiles and part in COMPILING_PARTS else 0.0
        return 0.0 if self.is_tiny else EXPECTED_SECONDS[part] + compiling


class OperationCount(TorchDispatchMode):
    """Counts the operations within the context."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def attempt(name: str, work: Callable[[], Made]) -> Made | None:
    """Does a part of the work; if it fails, says why, and the rest can be measured."""
    try:
        return work()
    except Exception as error:
        print(f"\n{name} is not measured: {describe_error(error)}\n", flush=True)
        return None


def measure_step(settings: GpuSettings, *, shape: str) -> None:
    """Times a training step, and one of nnU-Net's trainer."""
    seconds = attempt(f"our step {shape}", partial(_measure_own_step, settings, shape=shape))
    theirs = find_step_of_peer(settings, shape)
    if not math.isnan(theirs):
        told = f"nnU-Net{', compiled' if settings.compiles else ', not compiled'}"
        ratio = "" if seconds is None else f", {theirs / seconds:.2f} times as long"
        print_row([f"step {shape}", told, f"{1e3 * theirs:.2f} ms", f"{1 / theirs:.1f} it/s{ratio}"])


def _measure_own_step(settings: GpuSettings, *, shape: str) -> float:
    """Times a step in every execution, then the chosen one without waiting between steps, which takes the seconds."""
    plan = plan_shape(shape, is_tiny=settings.is_tiny)
    build, batch = partial(_build, settings, plan), draw_batch(plan, settings.device)
    is_cuda = settings.device.type == "cuda"
    options = TrainingOptions(
        device=settings.device, seed=0, workers=0, dtype=settings.dtype, is_dtype_free=is_cuda, announce=print
    )
    execution = choose_execution(
        build,
        batch,
        iterations=MANY_ITERATIONS if is_cuda or settings.compiles else 1,
        announce=partial(print, flush=True),
        pays_from_seconds=None if settings.compiles else math.inf,
        variants=list_variants(plan, options),
    )
    seconds = _time(settings, partial(launch_training_step, build(execution), batch))
    print_row([f"step {shape}", execution.describe(), f"{1e3 * seconds:.2f} ms", f"{1 / seconds:.1f} it/s"])
    return seconds


def find_step_of_peer(settings: GpuSettings, shape: str) -> float:
    """Finds the seconds of a step of nnU-Net, which the first call measures for all shapes that are asked for; not a
    number where there is none.
    """
    steps = settings.steps_of_peer
    if steps.get(shape) is None:
        missing = [name for name, seconds in {shape: None, **steps}.items() if seconds is None]
        tasks = [describe_task(settings, plan_shape(name, is_tiny=settings.is_tiny), kind="step") for name in missing]
        steps.update(zip(missing, ask_peer(settings, tasks), strict=True))
    return steps[shape] or math.nan


def measure_kernels(settings: GpuSettings) -> None:
    """Counts the kernels and the time that they take in a step, executed operation by operation."""
    for shape in ("hippocampus", "128"):
        plan = plan_shape(shape, is_tiny=settings.is_tiny)
        for memory_format in (torch.contiguous_format, CHANNELS_LAST[plan.dimensions]):
            execution = TrainingExecution(memory_format=memory_format)
            name = f"kernels {shape}"
            attempt(f"{name}, {execution.describe()},", partial(_profile_step, settings, plan, execution, name=name))


def _profile_step(settings: GpuSettings, plan: ConfigurationPlan, execution: TrainingExecution, *, name: str) -> None:
    learner, batch = _build(settings, plan, execution), draw_batch(plan, settings.device)
    _time(settings, partial(launch_training_step, learner, batch))
    is_cuda = settings.device.type == "cuda"
    activity = ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        launch_training_step(learner, batch).item()
    count, microseconds = count_kernels(profiler.key_averages(), is_cuda=is_cuda)
    print_row([name, execution.describe(), f"{count} kernels", f"{microseconds / 1e3:.2f} ms"])


def count_kernels(events: Iterable[Any], *, is_cuda: bool) -> tuple[int, float]:
    """Counts what ran on the device, and its microseconds; calls of CUDA that launch it are events of the CPU."""
    kind, field = (DeviceType.CUDA, "self_device_time_total") if is_cuda else (DeviceType.CPU, "self_cpu_time_total")
    here = [event for event in events if event.device_type == kind]
    return sum(event.count for event in here), sum(getattr(event, field) for event in here)


def measure_floor(settings: GpuSettings) -> None:
    """Times every convolution of the 128^3 network alone, forward and backward; then forms of the first one."""
    plan = plan_shape("128", is_tiny=settings.is_tiny)
    network = build_network(plan.network, torch.Generator().manual_seed(0)).to(settings.device)
    shapes: list[tuple[nn.Module, torch.Size]] = []
    convolutions = [module for module in network.modules() if isinstance(module, CONVOLUTIONS)]
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: shapes.append((module, inputs[0].shape)))
        for module in convolutions
    ]
    with torch.no_grad():
        network(draw_batch(plan, settings.device).image)
    for hook in hooks:
        hook.remove()
    layouts = {"channels first": torch.contiguous_format, "channels last": CHANNELS_LAST[plan.dimensions]}
    dtypes = [torch.bfloat16, torch.float16] if settings.device.type == "cuda" else [torch.float32]
    best = [float("inf")] * len(shapes)
    for dtype in dtypes:
        for name, layout in layouts.items():
            label, time_all = f"{dtype}, {name}", partial(_time_convolutions, settings, shapes)
            times = attempt(f"convolutions 128, {label},", partial(time_all, dtype=dtype, layout=layout))
            if times is not None:
                best = list(map(min, best, times))
                print_row(["convolutions 128", label, f"{1e3 * sum(times):.2f} ms", f"first {1e3 * times[0]:.2f} ms"])
    print_row(["convolutions 128", "best of each", f"{1e3 * sum(best):.2f} ms", f"first {1e3 * best[0]:.2f} ms"])
    module, shape = shapes[0]
    padded = type(module)(PADDED_CHANNELS, module.out_channels, 3, padding=1)
    more = torch.Size((shape[0], PADDED_CHANNELS, *shape[2:]))
    seconds = _time_convolution(settings, padded, more, dtype=dtypes[0], layout=layouts["channels last"])
    print_row(["first convolution", f"padded to {PADDED_CHANNELS} channels", f"{1e3 * seconds:.2f} ms", str(dtypes[0])])


def measure_batches(settings: GpuSettings) -> None:
    """Times batches alone, made as in training, and counts their operations."""
    run = _plan_dataset(settings)
    plan = read_document(run.plan, Plan)
    name = "3d_fullres" if "3d_fullres" in plan.configurations else next(iter(plan.configurations))
    folder = run.preprocessed(plan.configurations[name].data_of)
    cases = tuple(list_cases(folder))
    source = build_source(
        plan.configurations[name],
        plan.channels,
        data_folder=folder,
        fold=Fold(training=cases, validation=cases[:1]),
        seed=0,
        device=settings.device,
        announce=print,
    )
    keys = (BatchKey(stream="training", epoch=0, iteration=iteration) for iteration in range(10**6))
    with OperationCount() as operations:
        source.make_batch(next(keys))
    launched = sum(count for name, count in operations.counts.items() if name.lstrip("_") not in VIEWS)
    seconds = _time(settings, lambda: source.make_batch(next(keys)).image)
    size = plan.configurations[name].training.batch_size
    print_row([f"batches {name}", f"{size} patches", f"{1e3 * seconds:.2f} ms", f"{launched} operations in one"])


def measure_waiting(settings: GpuSettings) -> None:
    """Trains on the data set: pace, waiting and use of the GPU, against nnU-Net where it is installed."""
    _has_peer(settings)
    iterations = "5" if settings.is_tiny else str(WAITING_ITERATIONS)
    command = ["-m", "benchmarks.training_step", str(settings.dataset), "--device", settings.device.type]
    command += ["--rounds", "1", "--epochs", "2", "--iterations", iterations, "--peer", str(settings.peer)]
    print(settings.run([*command, "--compile" if settings.compiles else "--no-compile"]))


def measure_prediction(settings: GpuSettings) -> None:
    """Predicts two random volumes of 300 x 512 x 512 voxels with the 128^3 network, with mirrored views in the fastest
    way; nnU-Net predicts one of them.
    """
    plan = plan_shape("128", is_tiny=settings.is_tiny)
    setting = Setting(configuration=plan, device=settings.device, dtype=settings.dtype)
    extent = (24, 24, 24) if settings.is_tiny else (300, 512, 512)

    def time_one(prepared: PreparedNetworks, axes: tuple[int, ...]) -> float:
        way = f"{prepared.execution}, batch {prepared.inference_batch_size or plan.training.batch_size}"
        taken = time_prediction(plan, prepared, settings.device, extent=extent, axes=axes)
        print_row([f"prediction of 2 x {extent}", way, MIRRORING[bool(axes)], *taken.describe()])
        return taken.seconds

    def time_way(choice: ExecutionChoice) -> tuple[float, PreparedNetworks]:
        prepared = prepare(plan, setting, choice)
        return time_one(prepared, ()), prepared

    ways = (attempt(f"{choice} prediction", partial(time_way, choice)) for choice in list_choices(settings, setting))
    fastest = min((way for way in ways if way is not None), key=lambda way: way[0], default=None)
    if fastest is not None:
        attempt("prediction with mirrored views", partial(time_one, fastest[1], ALL_AXES))
    tasks = [
        describe_task(settings, plan, kind="prediction", extent=extent, mirror_axes=axes) for axes in ((), ALL_AXES)
    ]
    for is_mirrored, seconds in enumerate(ask_peer(settings, tasks)):
        if not math.isnan(seconds):
            row = [f"prediction of 1 x {extent}", "nnU-Net, windows alone", MIRRORING[is_mirrored]]
            print_row([*row, f"{seconds:.2f} s", ""])


def list_choices(settings: GpuSettings, setting: Setting) -> list[ExecutionChoice]:
    """Lists the executions to compare; on a GPU all that are there, the compiled one if it is asked for."""
    if settings.device.type != "cuda":
        return ["eager", "auto"]
    return ["eager", *(name for name in list_available(setting) if settings.compiles or name != "compiled")]


def measure_volume(settings: GpuSettings) -> None:
    """Predicts one random volume of 300 x 512 x 512 voxels without mirroring, by a model that was loaded for one image
    and has predicted before.
    """
    extent = (24, 24, 24) if settings.is_tiny else (300, 512, 512)
    plan = plan_shape("128", is_tiny=settings.is_tiny).model_copy(update={"median_shape_voxels": extent})
    setting = Setting(configuration=plan, device=settings.device, dtype=settings.dtype)
    prepared = prepare(plan, setting, "auto")
    times = [time_volume(plan, prepared, settings.device, extent=extent) for _ in range(3)]
    told = f"first {times[0]:.2f} s, then {times[1]:.2f} s"
    print_row([f"predict_volume of {extent}", prepared.execution, f"{min(times[1:]):.2f} s", told])


def measure_folds(settings: GpuSettings) -> None:
    """Trains five folds with the planner that plans by time, one after the other, as many as fit into the limit.

    What is done lies in the folder of `--work`; the next call goes on from there.
    """
    run = RunFolder(settings.work / "five-folds")
    if not run.plan.is_file():
        budget = "20s" if settings.is_tiny else DICE_BUDGET
        command = ["plan", str(settings.dataset), "--run", str(run.root), "--planner", "timed", "--budget", budget]
        settings.run(["-m", "autoseg", *command])
    for fold in range(FOLDS):
        done = run.root / f"fold_{fold}.txt"
        if not done.is_file():
            if time.perf_counter() + settings.expect("five-folds") > settings.end:
                print(f"fold {fold} would not end in time: go on with --only five-folds --work {settings.work}")
                return
            begin = time.perf_counter()
            command = ["train", str(run.root), "--fold", str(fold), "--device", settings.device.type]
            settings.run(["-m", "autoseg", *command])
            done.write_text(f"{time.perf_counter() - begin:.0f}")
    seconds = [float((run.root / f"fold_{fold}.txt").read_text()) for fold in range(FOLDS)]
    print(settings.run(["-m", "autoseg", "status", str(run.root)])[-2000:])
    print_row(["five folds", " + ".join(f"{each:.0f}" for each in seconds), f"{sum(seconds):.0f} s", ""])


def ask_peer(settings: GpuSettings, tasks: Sequence[Mapping[str, Any]]) -> list[float]:
    """Has nnU-Net do the same with the same networks, on random data; returns the seconds of each task, not a number
    where it is not installed or fails, which is said.
    """
    if not _has_peer(settings):
        return [math.nan] * len(tasks)
    path = settings.work / "peer_tasks.json"
    path.write_text(json.dumps(tasks))
    ask = partial(settings.run, [str(PEER_SCRIPT), str(path)], str(settings.peer / "bin" / "python"))
    printed = attempt("nnU-Net", ask)
    if printed is None:
        return [math.nan] * len(tasks)
    outcomes: list[float | str] = json.loads(printed.splitlines()[-1])
    for task, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, str):
            print(f"\nnnU-Net's {task['kind']} with the patch {task['patch']} is not measured: {outcome}\n", flush=True)
    return [math.nan if isinstance(outcome, str) else outcome for outcome in outcomes]


def describe_task(settings: GpuSettings, plan: ConfigurationPlan, *, kind: str, **more: Any) -> dict[str, Any]:
    """Describes the network and what is timed to nnU-Net."""
    network = plan.network.model_dump(mode="json")
    return {
        "kind": kind,
        "device": settings.device.type,
        "patch": plan.patch_voxels,
        "batch": plan.training.batch_size,
        "features": network["features_per_stage"],
        "encoder": network["blocks_per_stage"],
        "decoder": network["convolutions_per_decoder_stage"],
        "is_residual": plan.network.family == "residual_encoder_unet",
        "classes": plan.network.output_channels,
        "steps": settings.steps,
        "compiles": settings.compiles,
        "mirror_axes": (),
        **more,
    }


def measure_dice(settings: GpuSettings) -> None:
    """Trains fold 0 with the planner that plans by time, and prints its validation."""
    run, budget = settings.work / "dice", "20s" if settings.is_tiny else DICE_BUDGET
    plan = ["-m", "autoseg", "plan", str(settings.dataset), "--run", str(run), "--planner", "timed", "--budget", budget]
    settings.run(plan)
    begin = time.perf_counter()
    command = ["train", str(run), "--fold", "0", "--device", settings.device.type, "--restart"]  # also with --work
    print(settings.run(["-m", "autoseg", *command])[-2000:])
    print_row(["Dice of fold 0", f"budget {budget}", f"{time.perf_counter() - begin:.0f} s", ""])


PARTS: Final[Mapping[str, Callable[[GpuSettings], None]]] = {
    "step-hippocampus": partial(measure_step, shape="hippocampus"),
    "step-128": partial(measure_step, shape="128"),
    "step-2d": partial(measure_step, shape="2d"),
    "step-resenc": partial(measure_step, shape="resenc"),
    "waiting": measure_waiting,
    "prediction": measure_prediction,
    "predict-volume": measure_volume,
    "dice": measure_dice,
    "batches": measure_batches,
    "kernels": measure_kernels,
    "floor": measure_floor,
    "five-folds": measure_folds,
}
USUAL_PARTS: Final = tuple(part for part in PARTS if part != "five-folds")
STEP: Final = "step-"
NEED_A_DATASET: Final = frozenset({"batches", "waiting", "dice", "five-folds"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts and prints a row of a table in Markdown for each figure."""
    options = parse_options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device: there is nothing to measure (--tiny --device cpu tries the program)")
        return
    device = torch.device(options.device)
    select_kernels(device, deterministic=False)
    with tempfile.TemporaryDirectory(prefix="autoseg-gpu-") as folder:
        settings = build_settings(options, device, options.work or Path(folder))
        name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        print(f"{name}, PyTorch {torch.__version__}, {settings.dtype}, {describe_machine()}")
        print("\n| | | | |\n|---|---|---|---|")
        for part in options.only:
            begin = time.perf_counter()
            if begin + settings.expect(part) > settings.end:
                lasting = f"{part}, which takes about {settings.expect(part):.0f} s, would not end"
                print(f"\n{lasting} within {options.minutes:g} minutes: run it with --only {part}\n")
                continue
            attempt(part, partial(PARTS[part], settings))
            collect_garbage(device)  # networks of a part that failed, or were compiled
            print(f"\n({part}: {time.perf_counter() - begin:.0f} s)\n", flush=True)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=USUAL_PARTS, metavar="PART")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dataset", type=Path, default=DEFAULT_DATA / "Dataset004_Hippocampus")
    parser.add_argument("--peer", type=Path, default=DEFAULT_PEER, help="where nnU-Net is installed")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin no part that would end after so many")
    parser.add_argument(
        "--work", type=Path, help="folder for runs, which a later call goes on with (default: none is kept)"
    )
    parser.add_argument("--compile", action="store_true", help="try compiled networks, a minute or two for each")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the program")
    return parser.parse_args(arguments)


def build_settings(options: argparse.Namespace, device: torch.device, work: Path) -> GpuSettings:
    """What is asked for; without the data set, a synthetic one in its place, which is said."""
    dataset = options.dataset.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if NEED_A_DATASET.intersection(options.only) and (options.tiny or not dataset.is_dir()):
        print(f"{dataset} is {'not used' if options.tiny else 'absent'}: a synthetic dataset takes its place")
        dataset = work / "Dataset900_Synthetic"
        if not dataset.is_dir():
            write_synthetic_dataset(dataset, training_cases=5 if options.tiny else 20, test_cases=0, seed=0)
    end = time.perf_counter() + 60 * options.minutes
    return GpuSettings(
        device=device,
        dtype=find_dtype(device, "auto"),
        dataset=dataset,
        peer=options.peer,
        work=work,
        steps=1 if options.tiny else 20,
        is_tiny=options.tiny,
        compiles=options.compile,
        steps_of_peer={part.removeprefix(STEP): None for part in options.only if part.startswith(STEP)},
        end=end,
        run=partial(run_python, end=end),
    )


def run_python(arguments: Sequence[str], interpreter: str = sys.executable, *, end: float = math.inf) -> str:
    """Runs Python with arguments; returns what it printed, which is shown at once if it fails.

    Args:
        arguments: Its arguments.
        interpreter: Another Python.
        end: Time of the clock at which it is ended, with all processes that it has started.

    Raises:
        RuntimeError: It failed, or was ended.
    """
    what, pipe = " ".join(arguments[:3]), subprocess.PIPE
    left = None if math.isinf(end) else max(1.0, end - time.perf_counter())
    with subprocess.Popen([interpreter, *arguments], stdout=pipe, stderr=pipe, text=True, process_group=0) as process:
        try:
            printed, errors = process.communicate(timeout=left)
        except subprocess.TimeoutExpired as error:
            print(_end_group(process), flush=True)
            msg = f"{what} took longer than was left of the time (--minutes)"
            raise RuntimeError(msg) from error
        except BaseException:  # Ctrl-C, which only this process gets
            _end_group(process)
            raise
    if process.returncode:
        print(printed, flush=True)
        msg = f"{what} failed: {errors.strip().splitlines()[-1] if errors.strip() else ''}"
        raise RuntimeError(msg)
    return printed


def _end_group(process: "subprocess.Popen[str]") -> str:
    """Ends a process and those that it has started; returns what was printed. A training saves its state first."""
    printed = ""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            printed, _ = process.communicate(timeout=SECONDS_TO_END)
    return printed


def print_row(cells: Sequence[str]) -> None:
    """Prints a row of a table in Markdown."""
    print(f"| {' | '.join(cells)} |", flush=True)


def _has_peer(settings: GpuSettings) -> bool:
    is_there = (settings.peer / "bin" / "nnUNetv2_train").is_file()
    if not is_there:
        print(f"{settings.peer} holds no nnU-Net: it is not compared (name its environment with --peer)")
    return is_there


def _build(settings: GpuSettings, plan: ConfigurationPlan, execution: TrainingExecution) -> Learner:
    return build_learner(
        plan, LABELS, device=settings.device, seed=0, dtype=settings.dtype, execution=execution, announce=print
    )


def _plan_dataset(settings: GpuSettings) -> RunFolder:
    run = RunFolder(settings.work / "run")
    settings.run(["-m", "autoseg", "plan", str(settings.dataset), "--run", str(run.root)])
    return run


def _time_convolutions(
    settings: GpuSettings,
    shapes: Sequence[tuple[nn.Module, torch.Size]],
    *,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> list[float]:
    return [_time_convolution(settings, module, shape, dtype=dtype, layout=layout) for module, shape in shapes]


def _time_convolution(
    settings: GpuSettings, module: nn.Module, shape: torch.Size, *, dtype: torch.dtype, layout: torch.memory_format
) -> float:
    """Times forward and backward pass of a convolution alone."""
    module = module.to(settings.device, dtype, memory_format=layout)  # type: ignore[call-overload]
    image = torch.randn(shape, device=settings.device, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.ones_like(module(image))
    return _time(settings, lambda: torch.autograd.grad(module(image), [image, *module.parameters()], gradient)[0])


def _time(settings: GpuSettings, work: Callable[[], Any]) -> float:
    """Returns the seconds of a repetition; the device is waited for only before the first and after the last."""
    for _ in range(min(4, settings.steps)):  # kernels are chosen, a step is captured
        work()
    begin = _read_clock(settings.device)
    for _ in range(settings.steps):
        work()
    return (_read_clock(settings.device) - begin) / settings.steps


def _read_clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
