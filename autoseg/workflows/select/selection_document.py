"""Schema of selection.json: models and postprocessing that prediction uses, and the scores behind the selection."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_serializer, model_validator

from autoseg.document import Document, Part, read_document
from autoseg.evaluation.crossvalidation import Statistic
from autoseg.evaluation.gain import Gain
from autoseg.evaluation.instances import ObjectScores
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.plan.values import ConfigurationName, Count
from autoseg.postprocessing.instances import ObjectRule
from autoseg.postprocessing.learning import Step
from autoseg.postprocessing.rules import Rule
from autoseg.quality.objects import ScoredObjects
from autoseg.run_folder import RunFolder
from autoseg.untrusted.names import FolderName
from autoseg.workflows.select.prediction_choice import PredictionChoice

NAMES_JOINED_BY = " + "


class Member(Part):
    """One selected model.

    Attributes:
        configuration: Name of the configuration.
        folds: Folds whose networks are averaged.
        weights_sha256: SHA-256 of their checkpoints; those of previous stages come first.
        pruned_depth: Depth to which the networks of the configuration are pruned; None for whole ones.
    """

    configuration: ConfigurationName
    folds: Annotated[tuple[FolderName, ...], Field(min_length=1)]
    weights_sha256: Annotated[tuple[str, ...], Field(min_length=1)]
    pruned_depth: Count | None = None

    @property
    def name(self) -> str:
        """Returns the name for messages."""
        return name_pruned(self.configuration, self.pruned_depth)


class StageVerdict(Part):
    """Whether a stage stays in the selection.

    Attributes:
        follows: Configurations of the candidate that it is compared with: the same with what the stage follows.
        is_kept: Whether it stays.
        score: Score by which it is ranked: mean Dice, or average precision of objects.
        followed_score: Score of the candidate that it is compared with.
        gain: Difference of these scores.
        nsd_gain: Gain in normalized surface Dice; None where objects are told apart.
        because: Reason, with the numbers.
    """

    follows: tuple[str, ...]
    is_kept: bool
    score: float
    followed_score: float
    gain: Gain
    nsd_gain: Gain | None
    because: str


class ObjectPrecision(Part):
    """Average precision of objects: the mean over the thresholds of the IoU, 0.5, 0.55, ..., 0.95.

    Each case counts by the rules that were learned without it.

    Attributes:
        foreground: Mean over the classes.
        classes: Statistics by class name.
    """

    foreground: Statistic
    classes: dict[str, Statistic]


class CandidateScores(Part):
    """A configuration, or a pair of them whose probabilities are averaged, and its scores over the held-out cases.

    Attributes:
        configurations: One or two configurations.
        foreground: Mean Dice over the classes that occur in some reference.
        classes: Dice by class key.
        pruned_depth: Depth to which the networks of a single configuration were pruned; None for whole ones.
        objects: Scores of objects, by which candidates are ranked; None, and not written, where none are told apart.
        image_cost: Billions of multiply-adds for an image, mirrored views and previous stages included; written where
            there are stages.
        stage: Whether the stage stays; None, and not written, if it is none.
    """

    configurations: tuple[str, ...]
    foreground: Statistic
    classes: dict[str, Statistic]
    pruned_depth: Count | None = None
    objects: ObjectPrecision | None = None
    image_cost: float | None = None
    stage: StageVerdict | None = None

    @property
    def name(self) -> str:
        """Returns the name for messages."""
        return name_pruned(NAMES_JOINED_BY.join(self.configurations), self.pruned_depth)

    @model_serializer(mode="wrap")
    def _omit_missing(self, write: Callable[[Part], dict[str, Any]]) -> dict[str, Any]:
        optional = ("objects", "image_cost", "stage")
        return {key: value for key, value in write(self).items() if value is not None or key not in optional}


class Postprocessing(Part):
    """Postprocessing learned from the held-out cases.

    Attributes:
        rules: Accepted rules, in the order of application.
        steps: All rules that were tried, in their order.
        before: Foreground Dice of the selected candidate.
        after: Foreground Dice with all rules, on the cases that they were chosen on, so it is optimistic; the gains of
            the steps are not.
    """

    rules: tuple[Rule, ...]
    steps: tuple[Step, ...]
    before: Statistic
    after: Statistic


class ObjectChoice(Part):
    """Rules by which objects are found, learned from the held-out cases.

    Attributes:
        rules: One for each class.
        gain: Gain of learned rules over the usual ones on cases that were left out; None with too few cases.
        because: Reason for the choice, with the numbers.
        scores: Scores of the rules by class name, over all held-out cases together, on which they were learned.
        components: The same of connected components of the classes, without cores.
    """

    rules: Annotated[tuple[ObjectRule, ...], Field(min_length=1)]
    gain: Gain | None
    because: str
    scores: dict[str, ObjectScores]
    components: dict[str, ObjectScores]


LearnedObjects = tuple[ObjectChoice, Float64[np.ndarray, "case object_class"], tuple[ScoredObjects, ...]]
"""Rules of a candidate, the average precision of each case and class by rules that were learned without it, and the
objects of each case by these."""


class Selection(Document):
    """Selected models and postprocessing.

    Attributes:
        cases: Cases held out by folds of every candidate, on which all are compared.
        class_names: Class names by class key.
        classes_without_reference: Classes that occur in no reference of these cases, and that do not count.
        candidates: Scores of all candidates, the best one first; before it the best one pruned, if that is selected.
        members: Models of the first candidate, which prediction uses. Only a single one may be pruned.
        because: Reason for the selection, with the numbers.
        prediction: Mirroring and decoding; None where they were not measured, as by earlier versions.
        objects: Rules by which objects are found; None where they are not told apart.
        call: Options of `autoseg select` that made it; those of earlier versions are not known.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    cases: tuple[str, ...]
    class_names: dict[str, str]
    classes_without_reference: tuple[str, ...]
    candidates: tuple[CandidateScores, ...]
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    because: str
    postprocessing: Postprocessing
    prediction: PredictionChoice | None = None
    objects: ObjectChoice | None = None
    call: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Returns the name of the selected candidate."""
        return NAMES_JOINED_BY.join(member.name for member in self.members)

    @property
    def options(self) -> PredictionOptions:
        """Returns the options that were chosen, else the usual ones."""
        return DEFAULT_OPTIONS if self.prediction is None else self.prediction.options

    @property
    def weights_sha256(self) -> tuple[str, ...]:
        """Returns the digests of the weights of all members."""
        return tuple(digest for member in self.members for digest in member.weights_sha256)

    @model_validator(mode="after")
    def _check_pruned(self) -> "Selection":
        if len(self.members) > 1 and any(member.pruned_depth is not None for member in self.members):
            msg = f"members must not have a pruned_depth if there are several (got {self.name})"
            raise ValueError(msg)
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yields what `repr` and `print` show: the selection and the number of cases behind it."""
        yield "members", {member.configuration: member.folds for member in self.members}
        yield "postprocessing", [rule.describe() for rule in self.postprocessing.rules]
        yield "cases", len(self.cases)
        yield "Dice", None if self.postprocessing.after.mean is None else round(self.postprocessing.after.mean, 4)


def name_pruned(configuration: str, depth: int | None) -> str:
    """Returns the name of a configuration for messages, with the depth to which its networks are pruned."""
    return configuration if depth is None else f"{configuration}, pruned to depth {depth}"


def read_selection(run: RunFolder) -> Selection | None:
    """Reads the selection of a run; None if there is none.

    Raises:
        DocumentError: The file is damaged.
    """
    path: Path = run.selection
    return read_document(path, Selection) if path.is_file() else None
