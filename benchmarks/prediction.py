"""Prediction against nnU-Net in one run: `python -m benchmarks.prediction [--peer FOLDER] [--only TASK ...]`.

Both predict the same images on the CPU with the same weights, window step and mirroring; label maps are compared.
Restoring is measured alone on logits of many classes, where nnU-Net needs more memory than most computers have: it
gets as many of the classes as fit, and a quarter of them; a straight line through both says what all would take.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy.ndimage import zoom

from autoseg.document import read_document
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map
from benchmarks.machine import describe_machine
from benchmarks.peer import Peer
from benchmarks.peer_weights import convert_to_autoseg, convert_to_peer
from benchmarks.preprocessing import DEFAULT_DATA, DEFAULT_PEER, run_checked
from benchmarks.process_tree import Measurement
from benchmarks.stages import shorten

HERE: Final = Path(__file__).parent
CONFIGURATION: Final = "3d_fullres"
DEFAULT_MODEL: Final = Path("../shared/reference/models/Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres")
LOGITS_SHAPE: Final = (160, 128, 128)
FILE_SHAPE: Final = (400, 512, 512)
FILE_SPACING_MM: Final = (1.2, 0.75, 0.75)
PEER_BYTES_PER_VOXEL: Final = 4.2
"""Of one class at the finer resolution (measured with 16 and 29 classes)."""
MEMORY_SHARE: Final = 0.8
TRAINING_PATCH_VOXELS: Final = (64, 64, 64)
"""Of BrainTumour: ten times as many iterations in the same time as with the planned patch, so that the network decides
clearly and label maps can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line said."""

    peer: Peer
    data: Path
    model: Path
    work: Path
    images: int | None
    brain_iterations: int
    classes: int
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    label: str
    measurement: Measurement
    reference: Measurement
    agreement: float | None

    def describe(self) -> str:
        """In Markdown."""
        time_ratio = self.reference.seconds / self.measurement.seconds
        memory_ratio = self.reference.peak_bytes / self.measurement.peak_bytes
        agreement = "" if self.agreement is None else f"{self.agreement:.4%}"
        return (
            f"| {self.label} | {self.measurement.seconds:.1f} | {time_ratio:.1f} "
            f"| {self.measurement.peak_gib:.2f} | {memory_ratio:.1f} | {agreement} |"
        )


def main() -> None:
    """Measures and prints tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=DEFAULT_PEER, help="where nnU-Net is installed")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of real datasets")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="nnU-Net's model of Hippocampus")
    parser.add_argument("--only", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--images", type=int, help="how many images to predict  [default: 20 and 5]")
    parser.add_argument("--brain-iterations", type=int, default=150, help="length of the training of BrainTumour")
    parser.add_argument("--classes", type=int, default=117, help="classes to restore")
    parser.add_argument("--scale", type=float, default=1.0, help="of the extents of the logits to restore")
    options = parser.parse_args()
    if not (options.peer / "bin" / "nnUNetv2_predict_from_modelfolder").is_file():
        print(f"{options.peer} holds no nnU-Net; the comparison is left out (choose another folder with --peer)")
        return
    with tempfile.TemporaryDirectory(prefix="autoseg-bench-") as folder:
        settings = Settings(
            peer=Peer(installed=options.peer, root=Path(folder) / "peer"),
            data=options.data,
            model=options.model,
            work=Path(folder),
            images=options.images,
            brain_iterations=options.brain_iterations,
            classes=options.classes,
            scale=options.scale,
        )
        print(describe_machine())
        for name in options.only:
            print(f"\n{name}\n\n| | wall time (s) | times as fast | peak memory (GiB) | times as lean | equal voxels |")
            print("|---|---|---|---|---|---|", flush=True)
            TASKS[name](settings)


def measure_hippocampus(settings: Settings) -> None:
    """20 small images with the weights of nnU-Net's model."""
    dataset, run = settings.data / "Dataset004_Hippocampus", settings.work / "hippocampus.autoseg"
    plan = plan_run(dataset, run, settings)
    weights = settings.work / "weights.npz"
    run_peer_script(settings, "peer_model.py", "read", str(settings.model / "fold_0"), str(weights))
    write_fold(run, plan)
    stages = len(plan.configurations[CONFIGURATION].network.features_per_stage)
    convert_to_autoseg(weights, RunFolder(run).fold(CONFIGURATION, "0").final_checkpoint, stages=stages)
    compare_prediction(settings, run, settings.model, copy_images(dataset, settings, default=20))


def measure_brain_tumour(settings: Settings) -> None:
    """Five images of two channels and regions, with weights of a short training by autoseg.

    Without mirrored views, of which each image has eight: nnU-Net takes minutes so, and would take an hour.
    """
    dataset, run = settings.data / "Dataset005_BrainTumour", settings.work / "brain.autoseg"
    plan = plan_run(dataset, run, settings, preprocess=True)
    shorten(run, settings.brain_iterations)
    replace_patch(run / "plan.json", TRAINING_PATCH_VOXELS)
    train = ["train", str(run), "--configuration", CONFIGURATION, "--fold", "all"]
    run_checked([sys.executable, "-m", "autoseg", *train], settings.work / "log")
    trained = RunFolder(run).fold(CONFIGURATION, "all").root
    trained.rename(trained.with_name("fold_0"))
    for path in (run / "plan.json", RunFolder(run).fold(CONFIGURATION, "0").plan):
        replace_patch(path, plan.configurations[CONFIGURATION].patch_voxels)
    stages = len(plan.configurations[CONFIGURATION].network.features_per_stage)
    weights = settings.work / "weights.npz"
    convert_to_peer(RunFolder(run).fold(CONFIGURATION, "0").final_checkpoint, weights, stages=stages)
    model = settings.peer.root / "results" / "model"
    write_peer_model(settings, dataset, weights, model)
    compare_prediction(settings, run, model, copy_images(dataset, settings, default=5), mirroring=False)


def measure_restoring(settings: Settings) -> None:
    """Many classes, from the network's grid to that of a large CT."""
    shapes = [tuple(round(extent * settings.scale) for extent in shape) for shape in (LOGITS_SHAPE, FILE_SHAPE)]
    network_spacing_mm = [
        spacing * new / old for spacing, new, old in zip(FILE_SPACING_MM, shapes[1], shapes[0], strict=True)
    ]
    task = settings.work / "task.json"
    content = {"shape_voxels": shapes[1], "spacing_mm": FILE_SPACING_MM, "network_spacing_mm": network_spacing_mm}
    task.write_text(json.dumps(content))
    fitting = count_fitting_classes(settings.classes, shapes[1])
    theirs = {}
    for count in (max(2, fitting // 4), fitting):
        logits = write_logits(settings, count, shapes[0])
        theirs[count] = run_restoring(settings, logits, task, "peer")
        print_restored("nnU-Net", count, theirs[count], theirs[count])
    ours = run_restoring(settings, logits, task, "autoseg")
    agreement = compare_label_maps(settings.work / "peer.nii.gz", settings.work / "autoseg.nii.gz")
    print_restored("autoseg", fitting, ours, theirs[fitting], agreement=agreement)
    logits.unlink()
    if fitting < settings.classes:
        extrapolated = extrapolate(theirs, settings.classes)
        print_restored("nnU-Net, extrapolated", settings.classes, extrapolated, extrapolated)
        ours = run_restoring(settings, write_logits(settings, settings.classes, shapes[0]), task, "autoseg")
        print_restored("autoseg", settings.classes, ours, extrapolated)


def write_logits(settings: Settings, classes: int, shape: tuple[int, ...]) -> Path:
    """A file of logits; the last one is replaced, as they are large."""
    path = settings.work / "logits.npy"
    np.save(path, draw_logits(classes, shape))
    return path


def print_restored(
    who: str, classes: int, measurement: Measurement, reference: Measurement, *, agreement: float | None = None
) -> None:
    """A line of the table."""
    label = f"{who}, {classes} classes"
    print(Row(label=label, measurement=measurement, reference=reference, agreement=agreement).describe(), flush=True)


def extrapolate(measured: dict[int, Measurement], classes: int) -> Measurement:
    """Time and memory of more classes, on the straight line through two measurements."""
    (few, small), (many, large) = sorted(measured.items())
    share = (classes - few) / (many - few)
    return Measurement(
        seconds=small.seconds + share * (large.seconds - small.seconds),
        peak_bytes=round(small.peak_bytes + share * (large.peak_bytes - small.peak_bytes)),
        exit_code=0,
    )


TASKS: Final[dict[str, Callable[[Settings], None]]] = {
    "hippocampus": measure_hippocampus,
    "brain-tumour": measure_brain_tumour,
    "restoring": measure_restoring,
}


def plan_run(dataset: Path, run: Path, settings: Settings, *, preprocess: bool = False) -> Plan:
    """A planned run; autoseg plans what nnU-Net plans."""
    command = [sys.executable, "-m", "autoseg", "plan", str(dataset), "--run", str(run)]
    run_checked(command if preprocess else [*command, "--no-preprocess"], settings.work / "log")
    return read_document(run / "plan.json", Plan)


def replace_patch(path: Path, patch_voxels: Sequence[int]) -> None:
    """Edits a plan: a network takes patches of any size that its strides divide."""
    plan = json.loads(path.read_text())
    plan["configurations"][CONFIGURATION]["patch_voxels"] = list(patch_voxels)
    path.write_text(json.dumps(plan))


def write_fold(run: Path, plan: Plan) -> None:
    """The plan of a training that took place elsewhere."""
    fold = RunFolder(run).fold(CONFIGURATION, "0")
    fold.root.mkdir(parents=True)
    fold.plan.write_text(plan.model_dump_json())


def write_peer_model(settings: Settings, dataset: Path, weights: Path, model: Path) -> None:
    """Lets nnU-Net plan the dataset, and writes a model of its plan with the given weights."""
    peer = settings.peer
    peer.raw.mkdir(parents=True)
    (peer.raw / dataset.name).symlink_to(dataset.resolve())
    number = dataset.name[len("Dataset") :].partition("_")[0]
    command = [str(peer.installed / "bin" / "nnUNetv2_plan_and_preprocess"), "-d", number, "--no_pp", "-npfp", "2"]
    run_checked(command, settings.work / "log", peer.make_environment())
    plans = peer.root / "preprocessed" / dataset.name / "nnUNetPlans.json"
    description = dataset / "dataset.json"
    arguments = [str(path) for path in (plans, description)]
    run_peer_script(settings, "peer_model.py", "write", *arguments, CONFIGURATION, str(weights), str(model))


def compare_prediction(settings: Settings, run: Path, model: Path, images: Path, *, mirroring: bool = True) -> None:
    """Times nnU-Net, then autoseg in single precision, in the default precision, and again with what it remembers."""
    theirs_out = settings.work / f"{run.stem}_peer"
    program = str(settings.peer.installed / "bin" / "nnUNetv2_predict_from_modelfolder")
    arguments = ["-i", str(images), "-o", str(theirs_out), "-m", str(model), "-f", "0", "-device", "cpu"]
    arguments += ["-npp", "1", "-nps", "1", *([] if mirroring else ["--disable_tta"])]
    theirs = run_checked([program, *arguments], settings.work / "log", settings.peer.make_environment())
    print(Row(label="nnU-Net", measurement=theirs, reference=theirs, agreement=None).describe(), flush=True)
    environment = {**settings.peer.make_environment(), "XDG_CACHE_HOME": str(settings.work / "cache")}
    variants = {"float32": ["--precision", "float32"], "default, first call": [], "default, later": []}
    for label, extra in variants.items():
        out = settings.work / f"{run.stem}_{label}"
        command = [sys.executable, "-m", "autoseg", "predict", str(run), str(images), str(out), "--fold", "0"]
        command += [] if mirroring else ["--no-mirroring"]
        ours = run_checked([*command, "--device", "cpu", *extra], settings.work / "log", environment)
        agreement = compare_folders(theirs_out, out)
        row = Row(label=f"autoseg, {label}", measurement=ours, reference=theirs, agreement=agreement)
        print(row.describe(), flush=True)


def run_restoring(settings: Settings, logits: Path, task: Path, who: str) -> Measurement:
    """One of the two, from the file of logits to the file of labels."""
    arguments = [str(logits), str(task), str(settings.work / who)]
    if who == "autoseg":
        command = [sys.executable, "-m", "benchmarks.restoring", *arguments]
        return run_checked(command, settings.work / "log")
    command = [str(settings.peer.installed / "bin" / "python"), str(HERE / "peer_restoring.py"), *arguments]
    return run_checked(command, settings.work / "log", settings.peer.make_environment())


def run_peer_script(settings: Settings, name: str, *arguments: str) -> None:
    """A script that needs nnU-Net's interpreter."""
    python = str(settings.peer.installed / "bin" / "python")
    subprocess.run([python, str(HERE / name), *arguments], check=True, env=settings.peer.make_environment())


def copy_images(dataset: Path, settings: Settings, *, default: int) -> Path:
    """The images of the first cases."""
    folder = settings.work / f"{dataset.name}_images"
    folder.mkdir()
    sources = sorted((dataset / "imagesTr").iterdir())
    cases = sorted({path.name.rpartition("_")[0] for path in sources})[: settings.images or default]
    for path in sources:
        if path.name.rpartition("_")[0] in cases:
            shutil.copy(path, folder / path.name)
    return folder


def compare_folders(theirs: Path, ours: Path) -> float:
    """Share of voxels with the same label, over all label maps."""
    names = sorted(path.name for path in theirs.glob("*.nii.gz"))
    assert names, f"{theirs} holds no label map"
    shares = [_count_equal(theirs / name, ours / name) for name in names]
    return sum(equal for equal, _ in shares) / sum(total for _, total in shares)


def compare_label_maps(theirs: Path, ours: Path) -> float:
    """Share of voxels with the same label."""
    equal, total = _count_equal(theirs, ours)
    return equal / total


def count_fitting_classes(wanted: int, shape: Sequence[int]) -> int:
    """How many classes nnU-Net's export can hold in the memory that is free."""
    free = psutil.virtual_memory().available * MEMORY_SHARE
    around = 4 * 8 * float(np.prod(shape))  # the class that is being resampled, in double precision
    return max(2, min(wanted, int((free - around) / (PEER_BYTES_PER_VOXEL * float(np.prod(shape))))))


def draw_logits(classes: int, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Smooth random fields with some noise, as a network's output is."""
    random = np.random.default_rng(0)
    logits = np.empty((classes, *shape), np.float16)
    for channel in logits:
        coarse = 4 * random.standard_normal((8, 8, 8), dtype=np.float32)
        smooth = zoom(coarse, [extent / 8 for extent in shape], order=1, mode="nearest", grid_mode=True)
        channel[...] = smooth + 0.2 * random.standard_normal(shape, dtype=np.float32)
    return logits


def _count_equal(theirs: Path, ours: Path) -> tuple[int, int]:
    first, second = read_label_map(theirs).array, read_label_map(ours).array
    return int(np.count_nonzero(first == second)), first.size


if __name__ == "__main__":
    main()
