"""The files of synthetic cases of a fold: how they are made, which there are, and which of them may train it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from autoseg.dataset.folds import Fold
from autoseg.document import Document, Part, read_document
from autoseg.errors import RunError, quote_path
from autoseg.plan.augmentation import Transforms
from autoseg.plan.decisions import Reason
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.preprocessing.cache import is_case_written
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.training.data.synthetic_cases import SyntheticCases
from autoseg.untrusted.names import FileStem
from autoseg.workflows.plan.preprocessing import extract_recipe

CaseNames = Annotated[tuple[FileStem, ...], Field(min_length=1)]


class SynthesisPlan(Document):
    """All decisions about the synthetic cases of one fold.

    Attributes:
        training_cases: The training cases of the fold, which alone the denoiser sees, and whose label maps are varied.
        denoiser: The denoiser of images and its training.
        variation: Random changes of label maps for which images are drawn.
        eta: Share of the noise of DDPM that every step from noise to an image adds (Song et al. 2021,
            arXiv:2010.02502); 0: none, so that an error of one step is not mended by those that follow.
        patches_per_axis: Largest extent of a synthetic case along each axis, in patches; it is never larger than its
            source, nor smaller than a patch.
    """

    schema_version: Literal[1] = 1
    configuration: str
    fold: str
    training_cases: CaseNames
    denoiser: ConfigurationPlan
    variation: Transforms
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    patches_per_axis: Annotated[int, Field(ge=1)]
    reasons: tuple[Reason, ...]


class SyntheticCase(Part):
    """One synthetic case.

    Attributes:
        source: The training case whose label map was varied.
    """

    name: FileStem
    source: FileStem


class SyntheticRecord(Document):
    """The synthetic cases of one fold that are finished.

    Attributes:
        training_cases: The training cases of the fold.
        weights_sha256: SHA-256 of the checkpoint of the denoiser.
    """

    schema_version: Literal[1] = 1
    configuration: str
    fold: str
    training_cases: CaseNames
    seed: int
    weights_sha256: str
    cases: tuple[SyntheticCase, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the cases."""
        return tuple(case.name for case in self.cases)


@dataclass(frozen=True, slots=True)
class SynthesisFolder:
    """The files of the synthetic cases of one fold."""

    root: Path

    @property
    def plan(self) -> Path:
        """How they are made."""
        return self.root / "synthesis.json"

    @property
    def record(self) -> Path:
        """The finished ones."""
        return self.root / "cases.json"

    @property
    def cases(self) -> Path:
        """Their arrays, in the form of preprocessed cases."""
        return self.root / "preprocessed"

    @property
    def denoiser(self) -> FoldFolder:
        """The training of the denoiser."""
        return FoldFolder(self.root / "denoiser")


def find_synthetic_cases(
    run: RunFolder, plan: Plan, configuration: str, fold: str, *, cases: Fold, count: int | None = None
) -> SyntheticCases:
    """Finds the synthetic cases of a fold, all of which were made from its training cases alone.

    Args:
        run: Run folder.
        plan: Plan of the run.
        configuration: Name of the configuration.
        fold: Name of the fold.
        cases: Training and validation cases of the fold.
        count: Number of the first ones, to which others were added since; None: all.

    Raises:
        RunError: There are none, they were made from other cases or for another plan, or one is missing.
    """
    folder = SynthesisFolder(run.synthetic(configuration, fold))
    command = f"autoseg synthesize {quote_path(run.root)} --configuration {configuration} --fold {fold}"
    if not folder.record.is_file():
        msg = f"{configuration}, fold {fold} has no synthetic cases in {folder.root}; make them with: {command}"
        raise RunError(msg)
    record = read_document(folder.record, SyntheticRecord)
    record = record.model_copy(update={"cases": record.cases[:count]})
    check_same_origin(record, folder, plan, configuration=configuration, fold=fold, cases=cases)
    if not record.cases:
        msg = f"no synthetic case in {folder.root} is finished; continue with: {command}"
        raise RunError(msg)
    missing = [name for name in record.names if not is_case_written(folder.cases, name)]
    if missing:
        msg = f"{folder.cases} lacks synthetic cases, such as {missing[0]}; make them again with: {command}"
        raise RunError(msg)
    training = plan.configurations[configuration].training
    text = f"{record.model_dump_json()}\n{training.synthetic_fraction}"
    if training.synthetic_end_fraction > 0:  # trainings that were begun before there was an end have none
        text += f"\n{training.synthetic_end_fraction}"
    return SyntheticCases(folder=folder.cases, names=record.names, digest=hashlib.sha256(text.encode()).hexdigest())


def check_same_origin(
    made: SynthesisPlan | SyntheticRecord,
    folder: SynthesisFolder,
    plan: Plan,
    *,
    configuration: str,
    fold: str,
    cases: Fold,
) -> None:
    """Checks that synthetic cases are made from the training cases of this very fold, preprocessed as they are now.

    Otherwise what the denoiser learned from held-out cases would train the fold.

    Raises:
        RunError: They are not.
    """
    advice = f"make them anew with: autoseg synthesize RUN --configuration {configuration} --fold {fold} --restart"
    if (made.configuration, made.fold, made.training_cases) != (configuration, fold, cases.training):
        msg = (
            f"the synthetic cases in {folder.root} are made from the {len(made.training_cases)} training cases that "
            f"{made.configuration}, fold {made.fold} had, and {configuration}, fold {fold} has {len(cases.training)}, "
            f"not the same: held-out cases would leak into the training; {advice}"
        )
        raise RunError(msg)
    if extract_recipe(read_document(folder.denoiser.plan, Plan), configuration) != extract_recipe(plan, configuration):
        msg = (
            f"the synthetic cases in {folder.root} are made for another plan ({folder.denoiser.plan}): orientation, "
            f"axes, normalization, labels or spacing differ; {advice}"
        )
        raise RunError(msg)
    clash = {case.name for case in getattr(made, "cases", ())} & {*cases.training, *cases.validation}
    if clash:
        msg = f"{min(clash)} is the name of a synthetic case and of one of the dataset, which needs another name"
        raise RunError(msg)
