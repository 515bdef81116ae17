"""Names of all files and folders of a run, which can be moved or copied to another machine, and atomic writing."""

import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoseg.errors import RunError, quote_path
from autoseg.files.temporary_files import REPLACED_ENDING, name_temporary, remove_leftovers, remove_leftovers_once

WORKING_FOLDER: Final = -100  # AT_FDCWD and RENAME_EXCHANGE of Linux
RENAME_EXCHANGE: Final = 2
BYTES_OF_A_FULL_DISK: Final = 64 * 2**20  # libraries write in parts, the last of which may not have fitted

PREDICTION_RECORD: Final = "prediction.json"  # beside label maps that autoseg predicted
ALL_CASES: Final = "all"
"""Name of the fold that trains on all cases and holds none out."""


@dataclass(frozen=True, slots=True)
class FoldFolder:
    """The files of one training: one configuration, one fold."""

    root: Path

    @property
    def latest_checkpoint(self) -> Path:
        """State to resume from; removed at the end of the training."""
        return self.root / "checkpoint_latest.safetensors"

    @property
    def best_checkpoint(self) -> Path:
        """State of the epoch with the highest moving average of the pseudo Dice."""
        return self.root / "checkpoint_best.safetensors"

    @property
    def final_checkpoint(self) -> Path:
        """State after the last epoch; prediction uses it."""
        return self.root / "checkpoint_final.safetensors"

    @property
    def plan(self) -> Path:
        """Copy of the plan that this training followed."""
        return self.root / "plan.json"

    @property
    def training_record(self) -> Path:
        """Seed, device and library versions of this training."""
        return self.root / "training.json"

    @property
    def import_record(self) -> Path:
        """Origin of the weights, if they were trained by another tool."""
        return self.root / "import.json"

    @property
    def training_log(self) -> Path:
        """One JSON object per epoch."""
        return self.root / "training_log.jsonl"

    @property
    def progress_picture(self) -> Path:
        """Loss, Dice and time per epoch as a picture."""
        return self.root / "progress.png"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.root / "tensorboard"

    @property
    def validation(self) -> Path:
        """Whole-volume predictions of the held-out cases and their summary."""
        return self.root / "validation"

    @property
    def summary(self) -> Path:
        """Scores of the held-out cases."""
        return self.validation / "summary.json"

    @property
    def validation_options(self) -> Path:
        """Options of the predictions, if they are not the default."""
        return self.validation / "options.json"

    @property
    def state(self) -> Path:
        """Progress of training and validation for monitoring."""
        return self.root / "state.json"

    @property
    def trackers(self) -> Path:
        """Identifiers of this training in experiment trackers."""
        return self.root / "trackers.json"

    @property
    def lock(self) -> Path:
        """Lock of the training process; beside the folder, which may be removed meanwhile."""
        return self.root.with_name(f".{self.root.name}.lock")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside one run."""

    root: Path

    @property
    def dataset(self) -> Path:
        """Description of the planned dataset: its location, channels, labels and cases."""
        return self.root / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """Measurements of the dataset."""
        return self.root / "fingerprint.json"

    @property
    def plan(self) -> Path:
        """Decisions with their reasons."""
        return self.root / "plan.json"

    @property
    def splits(self) -> Path:
        """Cases of every fold."""
        return self.root / "splits.json"

    @property
    def logs(self) -> Path:
        """Log files with the tracebacks of failed cases."""
        return self.root / "logs"

    @property
    def crossvalidation_json(self) -> Path:
        """Scores over the held-out cases of all folds."""
        return self.root / "crossvalidation.json"

    @property
    def crossvalidation_csv(self) -> Path:
        """The same scores as a table."""
        return self.root / "crossvalidation.csv"

    @property
    def selection(self) -> Path:
        """Models and postprocessing for prediction, with reasons."""
        return self.root / "selection.json"

    @property
    def model_record(self) -> Path:
        """Record of a model that came as a model file."""
        return self.root / "model.json"

    @property
    def model_card(self) -> Path:
        """Model card of such a model."""
        return self.root / "README.md"

    def ensemble(self, configurations: Sequence[str]) -> Path:
        """Predictions of an ensemble for held-out cases."""
        return self.root / "ensembles" / "+".join(configurations)

    def pruned(self, configuration: str, depth: int) -> Path:
        """Predictions of pruned networks for held-out cases."""
        return self.root / "pruned" / f"{configuration}_depth_{depth}"

    def synthetic(self, configuration: str, fold: str) -> Path:
        """Synthetic cases for the training of one fold, and the denoiser of its training cases that made them."""
        return self.root / "synthetic" / configuration / f"fold_{fold}"

    def training_log(self, configuration: str, fold: str) -> Path:
        """Terminal output of a training that a queue has started; further processes of it have files beside it."""
        return self.logs / f"train_{configuration}_fold_{fold}.log"

    @property
    def references(self) -> Path:
        """Copies of the reference label maps on their own grids, for validation."""
        return self.root / "references"

    def preprocessed(self, configuration: str) -> Path:
        """Arrays ready for the network, one set of files per case."""
        return self.root / "preprocessed" / configuration

    def recipe(self, configuration: str) -> Path:
        """The part of the plan that the arrays of `preprocessed` were made with."""
        return self.root / "preprocessed" / f"{configuration}.json"

    def configuration_models(self, configuration: str) -> Path:
        """All trainings of one configuration."""
        return self.root / "models" / configuration

    def fold(self, configuration: str, fold: str) -> FoldFolder:
        """One training; `fold` is "0" to "4" or "all"."""
        return FoldFolder(self.configuration_models(configuration) / f"fold_{fold}")


def open_run(root: Path) -> RunFolder:
    """Checks that `root` is a run folder, and removes what killed processes left in it.

    Raises:
        RunError: It is missing or holds no plan.
    """
    run = RunFolder(root)
    name = quote_path(root)
    if root.is_file():
        msg = (
            f"{root} is a file, expected a run folder; of a model in one file make one with: autoseg import {name} RUN"
        )
        raise RunError(msg)
    if not root.is_dir():
        msg = f"no run folder at {root}; make one with: autoseg plan DATASET --run {name}"
        raise RunError(msg)
    if not run.plan.is_file():
        msg = f"{root} holds no plan.json, so it is no run folder; make one with: autoseg plan DATASET --run {name}"
        raise RunError(msg)
    remove_leftovers(root)
    return run


def make_folder(path: Path) -> Path:
    """Creates a folder and its parents.

    Raises:
        RunError: It cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot create the folder {path}: {error.strerror or error}; choose a place that you may write"
        raise RunError(msg) from error
    if not os.access(path, os.W_OK):
        msg = f"the folder {path} is not writable; choose a place that you may write"
        raise RunError(msg)
    return path


def check_writable(folder: Path) -> None:
    """Checks, before long work begins, that a folder can be made or written.

    Raises:
        RunError: It is a file, lies below one, or may not be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        msg = f"{existing} is a file, expected a folder; choose another place"
        raise RunError(msg)
    if not os.access(existing, os.W_OK):
        msg = f"the folder {existing} is not writable; choose a place that you may write"
        raise RunError(msg)


def remove_folder(path: Path) -> None:
    """Removes a folder with all it holds, if it exists.

    Raises:
        RunError: Something in it cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        msg = f"cannot remove {path}: {error.strerror or error}; remove it yourself and repeat the command"
        raise RunError(msg) from error


@contextmanager
def write_atomically(path: Path, *, is_durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same ending) and renames it to `path` when the block succeeds.

    A reader, a crash or a second process sees the old file or the whole new one, never a part.

    Args:
        path: The file to be written.
        is_durable: Whether to flush the file to the disk, so that it survives a power failure; takes milliseconds.
            Not needed for files that can be made again and whose reader detects damage.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    remove_leftovers_once(make_folder(path.parent))
    temporary = name_temporary(path)
    try:
        with translate_write_errors(path):
            temporary.touch(exist_ok=False)  # unlike `tempfile`, with the permissions that the umask grants
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            temporary.chmod(mode)  # some writers replace it by a file that only the owner may read
            if is_durable:
                with temporary.open("rb") as handle:
                    os.fsync(handle.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_folder_atomically(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which replaces `path` when the block succeeds.

    An older folder is kept until then and replaced in one step, where the file system can exchange two names. Elsewhere
    it is renamed first, and a crash before the second step leaves nothing under its name; the next command that writes
    there gives the name back. A block that fails leaves nothing, not even empty parents of `path`.

    Raises:
        RunError: The folder cannot be written, or the older one not be replaced.
    """
    with create_parent_folders(path):
        remove_leftovers_once(path.parent)
        if path.is_symlink() or path.is_file():
            msg = f"cannot replace {path}: expected a folder, found a file or link; remove it or choose another place"
            raise RunError(msg)
        temporary = make_folder(name_temporary(path))
        try:
            with translate_write_errors(path):
                yield temporary
                _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    """Gives a folder the name `path`; a folder of that name is removed, or has the name `new` afterwards."""
    if not path.exists():
        new.rename(path)
    elif not _exchange_names(new, path):
        replaced = name_temporary(path, REPLACED_ENDING)
        path.rename(replaced)
        new.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)


def _exchange_names(first: Path, second: Path) -> bool:
    """Exchanges two names in one step; returns False where the system or the file system cannot."""
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    exchange = getattr(library, "renameat2", None)
    if exchange is None:
        return False
    if exchange(WORKING_FOLDER, os.fsencode(first), WORKING_FOLDER, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number))


@contextmanager
def create_parent_folders(path: Path) -> Iterator[None]:
    """Creates the parents of `path`; if the block fails, those created here are removed again if they are empty.

    Raises:
        RunError: They cannot be created.
    """
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    make_folder(path.parent)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another program has put something there
            for parent in missing:
                parent.rmdir()
        raise


@contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Translates OSError.

    Raises:
        RunError: The file or folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}; free space or choose another place"
        raise RunError(msg) from error


@contextmanager
def translate_library_errors(path: Path) -> Iterator[None]:
    """Translates write errors of blosc2 and PyTorch into OSError; they may have no reason, such as a full disk."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        is_full = shutil.disk_usage(path.parent).free < BYTES_OF_A_FULL_DISK
        raise OSError(f"{error}, as on a full disk" if is_full else str(error)) from error


def write_text(path: Path, text: str, *, is_durable: bool = True) -> None:
    """Writes a text file atomically (UTF-8); see `write_atomically`."""
    with write_atomically(path, is_durable=is_durable) as temporary:
        temporary.write_text(text, encoding="utf-8")
