"""selection.json: which models and postprocessing prediction uses, and the figures that decided so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from autoseg.document import Document, Part, read_document
from autoseg.evaluation.crossvalidation import Statistic
from autoseg.postprocessing.learning import Step
from autoseg.postprocessing.rules import Rule
from autoseg.run_folder import RunFolder

NAMES_JOINED_BY = " + "


class Member(Part):
    """One model of what was selected.

    Attributes:
        folds: Whose networks are averaged.
        weights_sha256: Of their checkpoints; those of previous stages come before.
    """

    configuration: str
    folds: tuple[str, ...]
    weights_sha256: tuple[str, ...]


class Candidate(Part):
    """A configuration, or a pair of them whose probabilities are averaged, and its Dice over the held-out cases.

    Attributes:
        configurations: One or two.
        foreground: Mean over the classes that some reference has.
        classes: By class key.
    """

    configurations: tuple[str, ...]
    foreground: Statistic
    classes: dict[str, Statistic]

    @property
    def name(self) -> str:
        """In words."""
        return NAMES_JOINED_BY.join(self.configurations)


class Postprocessing(Part):
    """What was learned from the held-out cases.

    Attributes:
        rules: To be applied in this order; the accepted ones.
        steps: All that were tried, in their order.
        before: Foreground Dice of the winner.
        after: With all rules, on the cases that chose them; the gains of the steps are more honest.
    """

    rules: tuple[Rule, ...]
    steps: tuple[Step, ...]
    before: Statistic
    after: Statistic


class Selection(Document):
    """The choice.

    Attributes:
        cases: Held out by folds of every candidate; all are compared on these.
        class_names: Class key to name.
        classes_without_reference: Classes that no reference of these cases has: they count nowhere.
        candidates: The best one first.
        members: What prediction uses: the models of the best candidate.
        because: Why this candidate, with the numbers.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    cases: tuple[str, ...]
    class_names: dict[str, str]
    classes_without_reference: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    members: tuple[Member, ...]
    because: str
    postprocessing: Postprocessing

    @property
    def name(self) -> str:
        """The winner in words."""
        return NAMES_JOINED_BY.join(member.configuration for member in self.members)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What `repr` and `print` show: the choice, and on how many cases it was made."""
        yield "members", {member.configuration: member.folds for member in self.members}
        yield "postprocessing", [rule.describe() for rule in self.postprocessing.rules]
        yield "cases", len(self.cases)
        yield "Dice", None if self.postprocessing.after.mean is None else round(self.postprocessing.after.mean, 4)


def read_selection(run: RunFolder) -> Selection | None:
    """What was selected for a run; None if nothing was.

    Raises:
        DocumentError: The file is damaged.
    """
    path: Path = run.selection
    return read_document(path, Selection) if path.is_file() else None
