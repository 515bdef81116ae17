"""A rule for the loss of a configuration: a row of the table of losses."""

from collections.abc import Callable
from dataclasses import dataclass

from autoseg.fingerprint import Fingerprint
from autoseg.plan.decisions import Decision
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import DiceTerm, LossTerm, ObjectivePlan
from planners.rules.memory import CountObjective

Terms = tuple[LossTerm, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRule:
    """A loss of the field, and how its parameters follow from a dataset.

    Attributes:
        description: One sentence for the command line.
        source: Authors of the paper.
        year: Year of the paper.
        choose: Chooses the terms for a configuration, whose other decisions are made.
        choose_objective: Chooses an objective that adds to the terms, which then count only where no other loss is
            asked for; None: the objective stays.
        kinds: Kinds of its terms that are impossible for some labels.
        count_elements: Counts what the objective keeps in memory of one patch beside the network; None: next to
            nothing.
    """

    description: str
    source: str
    year: int
    choose: Callable[[Fingerprint, ConfigurationPlan], Decision[Terms]]
    choose_objective: Callable[[ConfigurationPlan], ObjectivePlan] | None = None
    kinds: tuple[type[LossTerm], ...] = ()
    count_elements: CountObjective | None = None


def has_batch_dice(configuration: ConfigurationPlan) -> bool:
    """Returns whether the Dice of a batch was chosen for a configuration."""
    return any(isinstance(term, DiceTerm) and term.batch_dice for term in configuration.training.losses)
