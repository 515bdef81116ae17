"""The folder into which a prediction writes, and its record of how the label maps were made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from autoseg.document import Document, Part, read_document
from autoseg.errors import RunError
from autoseg.inference.execution.preparation import Execution
from autoseg.postprocessing.rules import FillHoles, LargestComponent, MinimumSize, Rule
from autoseg.run_folder import make_folder
from autoseg.runtime.precision import DtypeName
from autoseg.runtime.provenance import LibraryVersions

RECORD_NAME: Final = "prediction.json"
PLAN_NAME: Final = "plan.json"
WHAT_MAKES_LABEL_MAPS: Final = (
    *("images", "configuration", "folds", "ensemble", "weights_sha256"),
    *("mirroring", "step_fraction", "number_type", "postprocessing"),
)


class EnsembleMember(Part):
    """One of several configurations whose probabilities were averaged."""

    configuration: str
    folds: tuple[str, ...]


class PredictionRecord(Document):
    """Record of the models and options that made the label maps of a folder.

    Attributes:
        configuration: Name of the configuration; for an ensemble, all names.
        folds: Folds; for an ensemble, those of all members, each once.
        weights_sha256: Digests of every checkpoint: for each member, of every stage the folds.
        execution: Execution of the networks, one for each stage of each member; empty in records of earlier versions.
        ensemble: The members where there are several, else empty.
        postprocessing: Rules that were applied to the label maps, in this order. Probabilities are as the networks say.
        outputs: Names of all files that are made in this way, also by earlier calls, each with that of the image (its
            first channel); nothing else in the folder is ever removed.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    model: str
    images: str
    configuration: str
    folds: tuple[str, ...]
    weights_sha256: tuple[str, ...]
    mirroring: bool
    step_fraction: float
    number_type: DtypeName
    execution: tuple[Execution, ...] = ()
    probabilities: bool
    ensemble: tuple[EnsembleMember, ...] = ()
    postprocessing: tuple[Rule, ...] = ()
    outputs: dict[str, str] = Field(default_factory=dict)
    versions: LibraryVersions


def prepare_folder(out: Path, record: PredictionRecord, *, overwrite: bool) -> PredictionRecord:
    """Keeps what the same model and options made; what anything else made needs permission to be replaced.

    One folder never holds the label maps of two models: those that another one made are all removed. An interruption
    leaves either the earlier record or the new one, and with it a folder that the same call continues.

    Returns:
        The record with everything that the folder is to hold.
    """
    make_folder(out)
    path = out / RECORD_NAME
    if (out / PLAN_NAME).exists() and not path.exists():
        msg = f"{out} holds a plan.json that is not of a prediction, perhaps it is a run; choose another folder"
        raise RunError(msg)
    earlier = read_document(path, PredictionRecord) if path.exists() else None
    changes = [] if earlier is None else _list_changes(earlier, record)
    made = {} if earlier is None else earlier.outputs
    if overwrite:
        for name in (*record.outputs, *(made if changes else ())):
            (out / Path(name).name).unlink(missing_ok=True)
    else:
        _refuse_changes(out, changes)
        _refuse_strangers(out, record.outputs, made)
    return record if changes else record.model_copy(update={"outputs": made | record.outputs})


def _refuse_strangers(out: Path, outputs: Mapping[str, str], made: Mapping[str, str]) -> None:
    """Files that no prediction of this kind made, or made of another image of the same name, such as x.mha of x.nii."""
    existing = [name for name in outputs if (out / name).exists()]
    others = [name for name in existing if name in made and made[name] != outputs[name]]
    if others:
        msg = (
            f"{out / others[0]} was made of {made[others[0]]}, not of {outputs[others[0]]} ({len(others)} in all); "
            f"choose another folder, or replace it with --overwrite"
        )
        raise RunError(msg)
    existing = [name for name in existing if name not in made]
    if existing:
        msg = (
            f"{out} holds files that label maps would replace, such as {existing[0]} ({len(existing)} in all); "
            f"choose another folder, or replace them with --overwrite"
        )
        raise RunError(msg)


def _list_changes(earlier: PredictionRecord, record: PredictionRecord) -> list[str]:
    return [
        f"{field}: {_format(getattr(earlier, field))} there, {_format(getattr(record, field))} now"
        for field in WHAT_MAKES_LABEL_MAPS
        if getattr(earlier, field) != getattr(record, field)
    ]


def _refuse_changes(out: Path, changes: Sequence[str]) -> None:
    if changes:
        msg = (
            f"{out} holds predictions made in another way ({'; '.join(changes)}); "
            f"choose another folder, or replace them with --overwrite"
        )
        raise RunError(msg)


def _format(value: object) -> str:
    """Rules and members in words; anything else as it is."""
    if isinstance(value, tuple) and value and isinstance(value[0], Part):
        return "; ".join(_describe_part(part) for part in value)
    return "none" if value == () else str(value)


def _describe_part(part: Part) -> str:
    if isinstance(part, EnsembleMember):
        return f"{part.configuration} (folds {', '.join(part.folds)})"
    assert isinstance(part, LargestComponent | MinimumSize | FillHoles), "no other parts are compared"
    return part.describe()
