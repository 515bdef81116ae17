"""Label maps of nnU-Net's models: by nnU-Net, and by autoseg from the same model folders, voxel by voxel.

    python -m benchmarks.parity                                  models of every kind, made for the purpose
    python -m benchmarks.parity --model MODEL --images IMAGES    a real model; nnU-Net predicts first
    python -m benchmarks.parity --model MODEL --images IMAGES --expected LABELS     it has done so already

A second line for a model compares with what nnU-Net predicts when it adds up its windows as single instead of half
floats, all else being equal: what differs in the first line alone is nnU-Net's rounding.

`--peer` names an environment in which nnU-Net is installed. With `--export`, autoseg's copy of each model is exported
again, and nnU-Net predicts from the export.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from autoseg.document import read_document
from autoseg.errors import PredictionError
from autoseg.inference.options import PredictionOptions
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.importing import import_model
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from benchmarks.peer import Peer
from benchmarks.preprocessing import DEFAULT_PEER

SCRIPT: Final = Path(__file__).with_name("parity_models.py")
WANTED_SHARE: Final = 0.9999
COLUMNS: Final = "{:<52} {:>6} {:>12} {:>12}  {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of two folders of label maps.

    Attributes:
        equal_fraction: Voxels with the same value, of all voxels.
        lowest: The same of the worst image.
        dice: Of every value that occurs, over all images.
    """

    images: int
    equal_fraction: float
    lowest: float
    dice: dict[int, float]

    @property
    def is_enough(self) -> bool:
        """Whether both folders count as equal."""
        return self.equal_fraction >= WANTED_SHARE and all(value >= WANTED_SHARE for value in self.dice.values())

    def print_row(self, title: str) -> None:
        """One line of the table."""
        dice = ", ".join(f"{value}: {share:.5f}" for value, share in self.dice.items())
        mark = "" if self.is_enough else "  <-- below 0.9999"
        print(COLUMNS.format(title, self.images, f"{self.equal_fraction:.7f}", f"{self.lowest:.7f}", dice + mark))


def compare(expected: Path, found: Path) -> Agreement:
    """Compares all label maps of a folder with those of the same name in another."""
    names = sorted(path.name for path in expected.glob("*.nii.gz"))
    if not names:
        sys.exit(f"{expected} holds no label maps")
    pairs = [(read_label_map(expected / name).array, read_label_map(found / name).array) for name in names]
    shares = [float(np.mean(theirs == ours)) for theirs, ours in pairs]
    sizes = [theirs.size for theirs, _ in pairs]
    values = sorted({int(value) for theirs, ours in pairs for value in (*np.unique(theirs), *np.unique(ours))} - {0})
    return Agreement(
        images=len(names),
        equal_fraction=float(np.average(shares, weights=sizes)),
        lowest=min(shares),
        dice={value: _compute_dice(pairs, value) for value in values},
    )


def _compute_dice(pairs: list[tuple[NDArray[Any], NDArray[Any]]], value: int) -> float:
    both = sum(int(np.count_nonzero((theirs == value) & (ours == value))) for theirs, ours in pairs)
    total = sum(int(np.count_nonzero(array == value)) for pair in pairs for array in pair)
    return 2 * both / total


def run_peer(peer: Peer, *arguments: str) -> str:
    """Runs the peer's side and returns what it prints."""
    command = [str(peer.installed / "bin" / "python"), str(SCRIPT), *arguments]
    environment = peer.make_environment() | {"nnUNet_compile": "f"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def predict_here(run: Path, images: Path, out: Path, configuration: str | None) -> None:
    """With float32, mirroring and a step of one half, as the peer."""
    request = PredictionRequest(
        configuration=configuration,
        options=PredictionOptions(),
        device="cpu",
        precision="float32",
        overwrite=True,
    )
    predict_images(run, images, out, request=request, progress=SilentProgress())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Models of one kind, and what nnU-Net makes of them.

    Attributes:
        folder: For whatever is written.
        models: A model folder, or a folder of such.
        expected: nnU-Net's label maps of the only model; None for `theirs_<configuration>` in `folder`.
    """

    title: str
    folder: Path
    models: Path
    images: Path
    expected: Path | None = None

    @property
    def run(self) -> Path:
        """The imported models."""
        return self.folder / "run"

    def get_theirs(self, configuration: str) -> Path:
        """nnU-Net's label maps."""
        return self.expected or self.folder / f"theirs_{configuration}"

    def compare(self) -> list[bool]:
        """Prints a row for each configuration; the result is whether each agrees."""
        models = import_model(self.models, self.run, progress=SilentProgress())
        return [self._compare_one(model.configuration) for model in models]

    def list_export_jobs(self) -> list[dict[str, Any]]:
        """Exports every configuration; what nnU-Net is to predict with them."""
        jobs: list[dict[str, Any]] = []
        plan = read_document(RunFolder(self.run).plan, Plan)
        for model in export_model(
            self.run, self.folder / "exported", ExportRequest(overwrite=True), progress=SilentProgress()
        ):
            previous = plan.configurations[model.configuration].previous_configuration
            job = {
                "model": str(model.folder),
                "images": str(self.images),
                "out": str(self.folder / f"again_{model.configuration}"),
                "folds": model.folds,
                "previous": None if previous is None else str(self.get_theirs(previous)),
            }
            jobs.append(job)
        return jobs

    def compare_exports(self) -> list[bool]:
        """Like `compare`, for nnU-Net's predictions with exported models."""
        results = []
        for folder in sorted(self.folder.glob("again_*")):
            configuration = folder.name.removeprefix("again_")
            agreement = compare(self.get_theirs(configuration), folder)
            agreement.print_row(f"{self.title}, {configuration}, exported, by nnU-Net")
            results.append(agreement.is_enough)
        return results

    def _compare_one(self, configuration: str) -> bool:
        row, ours = f"{self.title}, {configuration}", self.folder / f"ours_{configuration}"
        try:
            predict_here(self.run, self.images, ours, configuration)
        except PredictionError as error:
            print(f"{row}: {error}")
            return False
        agreement = compare(self.get_theirs(configuration), ours)
        agreement.print_row(row)
        single = self.folder / f"single_{configuration}"
        if single.exists():
            compare(single, ours).print_row("  nnU-Net adding up in single precision")
        return agreement.is_enough


def main() -> None:
    """Prints the table; exits with 1 if a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, default=DEFAULT_PEER, help="environment with nnU-Net installed")
    parser.add_argument("--kind", action="append", help="only this kind of model (repeatable)")
    parser.add_argument("--model", type=Path, help="a model folder of nnU-Net")
    parser.add_argument("--images", type=Path, help="images for --model")
    parser.add_argument("--expected", type=Path, help="what nnU-Net made of them")
    parser.add_argument("--export", action="store_true", help="also predict with the exported copy, by nnU-Net")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="parity-") as temporary:
        peer = Peer(installed=arguments.peer, root=Path(temporary) / "peer")
        find = _take_given if arguments.model else _make_sources
        sources = find(arguments, peer, Path(temporary))
        print(COLUMNS.format("model", "images", "equal", "worst image", "Dice per value"))
        results = [result for source in sources for result in source.compare()]
        if arguments.export:
            _run_jobs(peer, [job for source in sources for job in source.list_export_jobs()], Path(temporary))
            results += [result for source in sources for result in source.compare_exports()]
    if not results or not all(results):
        sys.exit(1)


def _take_given(arguments: Any, peer: Peer, folder: Path) -> list[Source]:
    root: Path = arguments.model
    source = Source(title=root.name, folder=folder, models=root, images=arguments.images, expected=arguments.expected)
    if source.expected is None:
        folds = sorted(path.parent.name.removeprefix("fold_") for path in root.glob("fold_*/checkpoint_final.pth"))
        out = source.get_theirs(root.name.split("__")[-1])
        job = {"model": str(root), "images": str(source.images), "folds": folds, "previous": None}
        single = folder / f"single_{out.name.removeprefix('theirs_')}"
        _run_jobs(peer, [{**job, "out": str(out)}, {**job, "out": str(single), "is_single": True}], folder)
    return [source]


def _make_sources(arguments: Any, peer: Peer, folder: Path) -> list[Source]:
    kinds = arguments.kind or run_peer(peer, "kinds").splitlines()
    run_peer(peer, "make", str(folder), *kinds)
    places = [folder / str(index) for index in range(len(kinds))]
    return [
        Source(title=kind, folder=place, models=place / "models", images=place / "images")
        for kind, place in zip(kinds, places, strict=True)
    ]


def _run_jobs(peer: Peer, jobs: list[dict[str, Any]], folder: Path) -> None:
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    run_peer(peer, "predict", str(path))


if __name__ == "__main__":
    main()
