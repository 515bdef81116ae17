"""Settings of a site: partition, account, GPUs and whatever else a cluster wants to be told."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from autoseg.document import Document, Part, parse_part, read_document
from autoseg.errors import DocumentError, OptionError

FILE_NAME: Final = "slurm.json"
DEFAULT_GRES: Final = "gpu:1"
LISTS: Final = ("setup", "gpus", "options")  # of which a flag cannot give a value


class GpuKind(Part):
    """A kind of GPU of the cluster.

    Attributes:
        gres: Text for `--gres`, such as gpu:a100:1.
        memory_gb: Memory of each GPU.
    """

    gres: str
    memory_gb: Annotated[float, Field(gt=0)]


class SlurmSettings(Document):
    """Settings of a site; what is None is left to Slurm, or follows from the plan.

    Attributes:
        partition: Text for `--partition`.
        account: Text for `--account`.
        qos: Text for `--qos`.
        constraint: Text for `--constraint`.
        gres: GPUs of each node for a task, such as gpu:1; an empty text for none.
        gpus: Kinds of GPUs, of which a task gets the one with the least memory that is enough; without `gres`.
        cpus: CPU cores of each process.
        memory_gb: RAM of each node.
        time_minutes: Time limit; a training that needs longer is saved and queued again.
        signal_seconds: Time before the limit at which a task is asked to save its state.
        most_at_once: Number of tasks of one array that may run at the same time.
        case_jobs: Number of jobs among which the cases of a command are divided.
        setup: Lines of the shell before the command, such as `module load cuda`.
        container: Command that runs another one in a container, such as `apptainer exec --nv image.sif`.
        options: Further options of sbatch by name, without dashes; true for one that takes no value.
    """

    schema_version: Literal[1] = 1
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    gpus: tuple[GpuKind, ...] = ()
    cpus: Annotated[int, Field(ge=1)] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    time_minutes: Annotated[int, Field(ge=1)] | None = None
    signal_seconds: Annotated[int, Field(ge=10)] = 120
    most_at_once: Annotated[int, Field(ge=1)] | None = None
    case_jobs: Annotated[int, Field(ge=1)] = 8
    setup: tuple[str, ...] = ()
    container: str | None = None
    options: Mapping[str, Annotated[str, Field(min_length=1)] | Literal[True]] = {}

    def choose_gres(self, gpu_bytes: int) -> str:
        """Returns the GPUs of each node for a task that needs so much memory of each; empty for none.

        Raises:
            OptionError: No kind of GPU has enough.
        """
        if gpu_bytes == 0 or self.gres is not None:
            return (self.gres or "") if gpu_bytes else ""
        if not self.gpus:
            return DEFAULT_GRES
        enough = [kind for kind in self.gpus if kind.memory_gb * 1e9 >= gpu_bytes]
        if not enough:
            largest = max(kind.memory_gb for kind in self.gpus)
            msg = (
                f"{FILE_NAME}: the plan needs GPUs of {gpu_bytes / 1e9:g} GB, `gpus` has {largest:g} GB at most; "
                f"add a larger kind, or plan anew with autoseg plan --memory-gb {largest:g}"
            )
            raise OptionError(msg)
        return min(enough, key=lambda kind: kind.memory_gb).gres


def list_settings_files(run_root: Path) -> tuple[Path, ...]:
    """Lists the files that may hold settings; the first one that exists counts."""
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (run_root / FILE_NAME, user / "autoseg" / FILE_NAME)


def find_settings(run_root: Path, given: Sequence[str]) -> SlurmSettings:
    """Finds the settings of the run, else of the user, else none; what is given on the command line replaces them.

    Args:
        run_root: Run folder.
        given: Texts KEY=VALUE.

    Raises:
        DocumentError: A file breaks the schema.
        OptionError: A text has another form, or names no setting.
    """
    files = [path for path in list_settings_files(run_root) if path.is_file()]
    settings = read_document(files[0], SlurmSettings) if files else SlurmSettings()
    changes = dict(_parse_setting(text) for text in given)
    try:
        return parse_part(settings.model_dump() | changes, SlurmSettings, where="--slurm")
    except DocumentError as error:
        raise OptionError(str(error)) from error


def _parse_setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    names = [name for name in SlurmSettings.model_fields if name not in (*LISTS, "schema_version")]
    if not equals or key in LISTS:
        where = f"; {', '.join(LISTS)} are given in {FILE_NAME}" if key in LISTS else ""
        msg = f"--slurm takes KEY=VALUE with one of the keys {', '.join(names)}, found {text!r}{where}"
        raise OptionError(msg)
    return key, value


def count_gpus(gres: str) -> int:
    """Counts the GPUs of a text for `--gres`, such as gpu:2 or gpu:a100:2."""
    kinds = [entry.split("(")[0].split(":") for entry in gres.split(",") if entry.startswith("gpu")]
    return sum(int(words[-1]) if words[-1].isdecimal() else 1 for words in kinds)
