"""Label maps of nnU-Net's models: by nnU-Net, and by autoseg from the same model folders, voxel by voxel.

    python -m benchmarks.parity                                  models of every kind, made for the purpose
    python -m benchmarks.parity --model MODEL --images IMAGES    a real model; nnU-Net predicts first
    python -m benchmarks.parity --model MODEL --images IMAGES --expected LABELS     it has done so already

`--peer` names an environment in which nnU-Net is installed. With `--export`, autoseg's copy of each model is exported
again, and nnU-Net predicts from the export.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import PredictionError
from autoseg.inference.options import PredictionOptions
from autoseg.progress import Silent
from autoseg.volume_io import read_label_map
from autoseg.workflows.exchange import ExchangedModel, ExportRequest, export_model, import_model
from autoseg.workflows.prediction import PredictionRequest, predict_images
from benchmarks.peer import Peer
from benchmarks.preprocessing import DEFAULT_PEER

SCRIPT: Final = Path(__file__).with_name("parity_models.py")
WANTED_SHARE: Final = 0.9999
COLUMNS: Final = "{:<44} {:>6} {:>12} {:>12}  {}"


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
        print(COLUMNS.format(title, self.images, f"{self.equal_fraction:.6f}", f"{self.lowest:.6f}", dice + mark))


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


def run_peer(peer: Path, *arguments: str) -> str:
    """Runs the peer's side and returns what it prints."""
    command = [str(peer / "bin" / "python"), str(SCRIPT), *arguments]
    environment = Peer(installed=peer, root=Path(tempfile.gettempdir())).make_environment() | {"nnUNet_compile": "f"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def predict_here(run: Path, images: Path, out: Path, configuration: str | None) -> None:
    """With float32, mirroring and a step of one half, as the peer."""
    request = PredictionRequest(configuration=configuration, options=PredictionOptions(), device="cpu", overwrite=True)
    predict_images(run, images, out, request=request, progress=Silent())


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One configuration of a model, to be predicted by both programs.

    Attributes:
        title: Of its row.
        root: nnU-Net's folder.
        previous: Predictions of the previous stage, for a cascade.
    """

    title: str
    root: Path
    model: ExchangedModel
    previous: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One source of models, both programs.

    Attributes:
        folder: For whatever is written.
        expected: nnU-Net's label maps, if there are some already.
    """

    peer: Path
    folder: Path
    images: Path
    expected: Path | None
    exports: bool

    @property
    def run(self) -> Path:
        """The imported models."""
        return self.folder / "run"

    def compare_models(self, title: str, source: Path) -> list[bool]:
        """Prints a row for each configuration; the result is whether each agrees."""
        results = []
        previous: Path | None = None
        for model in import_model(source, self.run, progress=Silent()):
            root = source if (source / "plans.json").exists() else next(source.glob(f"*__{model.configuration}"))
            part = Part(title=f"{title}, {model.configuration}", root=root, model=model, previous=previous)
            theirs = self.expected or self._ask_peer(part, root, name="theirs")
            results.append(self._compare_part(part, theirs))
            if self.exports:
                results.append(self._compare_export(part, theirs))
            previous = theirs
        return results

    def _compare_part(self, part: Part, theirs: Path) -> bool:
        ours = self.folder / f"ours_{part.model.configuration}"
        try:
            predict_here(self.run, self.images, ours, part.model.configuration)
        except PredictionError as error:
            print(f"{part.title}: {error}")
            return False
        agreement = compare(theirs, ours)
        agreement.print_row(part.title)
        return agreement.is_enough

    def _compare_export(self, part: Part, theirs: Path) -> bool:
        request = ExportRequest(configuration=part.model.configuration, overwrite=True)
        (exported,) = export_model(self.run, self.folder / "exported", request, progress=Silent())
        agreement = compare(theirs, self._ask_peer(part, exported.folder, name="again"))
        agreement.print_row(f"{part.title}, exported, by nnU-Net")
        return agreement.is_enough

    def _ask_peer(self, part: Part, root: Path, *, name: str) -> Path:
        out = self.folder / f"{name}_{part.model.configuration}"
        more = [] if part.previous is None else [str(part.previous)]
        run_peer(self.peer, "predict", str(root), str(self.images), str(out), ",".join(part.model.folds), *more)
        return out


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
    print(COLUMNS.format("model", "images", "equal", "worst image", "Dice per value"))
    with tempfile.TemporaryDirectory(prefix="parity-") as temporary:
        compare_all = _compare_given if arguments.model else _compare_made
        results = compare_all(arguments, Path(temporary))
    if not results or not all(results):
        sys.exit(1)


def _compare_given(arguments: Any, folder: Path) -> list[bool]:
    comparison = Comparison(
        peer=arguments.peer,
        folder=folder,
        images=arguments.images,
        expected=arguments.expected,
        exports=arguments.export,
    )
    return comparison.compare_models(arguments.model.name, arguments.model)


def _compare_made(arguments: Any, folder: Path) -> list[bool]:
    results = []
    for index, kind in enumerate(arguments.kind or run_peer(arguments.peer, "kinds").splitlines()):
        place = folder / str(index)
        run_peer(arguments.peer, "make", str(place), kind)
        comparison = Comparison(
            peer=arguments.peer, folder=place, images=place / "images", expected=None, exports=arguments.export
        )
        results += comparison.compare_models(kind, place / "models")
    return results


if __name__ == "__main__":
    main()
