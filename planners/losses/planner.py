"""A planner with another loss: it applies rules for losses to every configuration that another planner plans."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoseg.document import suggest_key
from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.network_cost import MeasureCost
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.losses import CentreDistanceTerm, list_loss_problems
from planners.losses.rule import LossRule, Terms
from planners.losses.table import LOSS_RULES
from planners.reasons import record
from planners.rules.detection import DETECT
from planners.rules.memory import CountObjective


class AnyPlanner(Protocol):
    """Protocol of the planners in `planners.PLANNERS`."""

    @property
    def name(self) -> str:
        """Key of the table."""
        ...

    @property
    def measures_throughput(self) -> bool:
        """Whether it needs the measured throughput of the device."""
        ...

    def plan(self, fingerprint: Fingerprint, machine: Machine, *, measure_cost: MeasureCost | None = None) -> Plan:
        """Decides everything about a dataset."""
        ...

    def with_objective(self, count: CountObjective) -> "AnyPlanner":
        """Returns the planner that decides as this one, but for an objective that needs memory beside the network."""
        ...

    def check_labels(self, labels: LabelScheme, targets: InstanceTargets | None, dataset_name: str) -> None:
        """Checks, before images are measured, that plans exist for such labels."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPlanner:
    """Plans as another planner does, with another loss.

    Attributes:
        planner: Makes all other decisions.
        loss: Names of losses in `planners.losses.LOSS_RULES`, joined by "+".

    Raises:
        PlanError: There is no such loss, or one is named twice.
    """

    planner: AnyPlanner
    loss: str

    def __post_init__(self) -> None:
        find_rules(self.loss)

    @property
    def name(self) -> str:
        """The options that lead to this planner, as plans record them after `--planner`."""
        return f"{self.planner.name} --loss {self.loss}"

    @property
    def measures_throughput(self) -> bool:
        """Whether it needs the measured throughput of the CPU."""
        return self.planner.measures_throughput

    def plan(self, fingerprint: Fingerprint, machine: Machine, *, measure_cost: MeasureCost | None = None) -> Plan:
        """Decides everything about a dataset.

        Args:
            fingerprint: Fingerprint of the dataset.
            machine: The computer to plan for.
            measure_cost: Measures the cost of a network.

        Raises:
            PlanError: No plan exists, or the loss is impossible for the labels of the dataset.
        """
        counts = [rule.count_elements for rule in find_rules(self.loss) if rule.count_elements is not None]
        planner = self.planner.with_objective(counts[0]) if counts else self.planner  # never two: see find_rules
        plan = planner.plan(fingerprint, machine, measure_cost=measure_cost)
        chosen = {name: self._choose(fingerprint, name, part) for name, part in plan.configurations.items()}
        configurations = {
            name: self._change_objective(_change_training(part, losses=(*chosen[name].value, *_keep_terms(part))))
            for name, part in plan.configurations.items()
        }
        reasons = (
            *(reason for reason in plan.reasons if not _is_void(reason, configurations)),
            *(record(f"{name}: loss", decision, self.loss) for name, decision in chosen.items()),
        )
        return plan.model_copy(update={"planner": self.name, "configurations": configurations, "reasons": reasons})

    def check_labels(self, labels: LabelScheme, targets: InstanceTargets | None, dataset_name: str) -> None:
        """Checks, before images are measured, that plans exist for such labels.

        Raises:
            PlanError: The loss or the network is impossible for them.
        """
        kinds = dict.fromkeys(kind for rule in find_rules(self.loss) for kind in rule.kinds)
        problems = [
            f"{kind.model_fields['name'].default} {problem}"
            for kind in kinds
            for problem in kind.find_label_problems(labels)
        ]
        self._refuse(problems, dataset_name)
        self.planner.check_labels(labels, targets, dataset_name)

    def _refuse(self, problems: Sequence[str], dataset_name: str) -> None:
        if problems:
            msg = (
                f"the loss {self.loss!r} is impossible for the labels of {dataset_name}: "
                f"{'; '.join(problems)}; choose another one with --loss (`autoseg losses` lists them)"
            )
            raise PlanError(msg)

    def _choose(self, fingerprint: Fingerprint, name: str, configuration: ConfigurationPlan) -> Decision[Terms]:
        rules = find_rules(self.loss)
        decisions = {rule: rule.choose(fingerprint, configuration) for rule in rules}
        sources = [rule for rule in rules if rule.choose_objective is None] or rules
        terms = tuple(term for rule in sources for term in decisions[rule].value)
        self._refuse(list_loss_problems(terms, fingerprint.labels), fingerprint.dataset_name)
        labels = configuration.choose_network_labels(fingerprint.labels)
        if list_loss_problems(terms, labels):
            msg = (
                f"the loss {self.loss!r} has a weight or a probability for each class, but {name} sees one class at a "
                f"time; choose another one with --loss (`autoseg losses` lists them), or leave out --configuration "
                f"{name}"
            )
            raise PlanError(msg)
        clauses = (clause for decision in decisions.values() for clause in decision.because.split("; "))
        reasons = "; ".join(dict.fromkeys(clauses))  # several losses explain the shares of the classes alike
        return Decision(terms, f"asked for in place of Dice and cross entropy: {reasons}")

    def _change_objective(self, configuration: ConfigurationPlan) -> ConfigurationPlan:
        for rule in find_rules(self.loss):
            if rule.choose_objective is not None:
                objective = rule.choose_objective(configuration)
                problem = objective.find_problem(configuration.network)
                if problem is not None or objective.name == configuration.training.objective.name:
                    advice = "choose another --loss or --architecture"
                    if configuration.network.finds_boxes:
                        advice = f"leave out --configuration {DETECT}, of which it is the first stage, or --loss"
                    msg = (
                        f"the loss {self.loss!r} is impossible for the network {configuration.network.family!r}: "
                        f"{problem or 'it has no strides for latents'}; {advice}"
                    )
                    raise PlanError(msg)
                configuration = _change_training(configuration, objective=objective)
        return configuration


def _keep_terms(configuration: ConfigurationPlan) -> Terms:
    """Keeps the terms that no loss replaces: those of further outputs."""
    return tuple(term for term in configuration.training.losses if isinstance(term, CentreDistanceTerm))


def _change_training(configuration: ConfigurationPlan, **changes: object) -> ConfigurationPlan:
    training = configuration.training.model_copy(update=changes)
    return configuration.model_copy(update={"training": training})


def find_rules(names: str) -> tuple[LossRule, ...]:
    """Finds the rules of losses by their names, joined by "+".

    Raises:
        PlanError: There is no such loss, one is named twice, or two need objectives of their own; the message suggests
            what to name instead.
    """
    listed = names.split("+")
    repeated = [name for name in dict.fromkeys(listed) if listed.count(name) > 1]
    if repeated:
        msg = (
            f"the loss {names!r} names {', '.join(repeated)} more than once; name each loss once: "
            f"{'+'.join(dict.fromkeys(listed))}, and change its weight in plan.json"
        )
        raise PlanError(msg)
    for name in listed:
        if name not in LOSS_RULES:
            hint = suggest_key(name, list(LOSS_RULES))
            msg = f"no loss is called {name!r}{hint}; choose one, or several joined by +, of: {', '.join(LOSS_RULES)}"
            raise PlanError(msg)
    objectives = [name for name in listed if LOSS_RULES[name].choose_objective is not None]
    if len(objectives) > 1:
        msg = (
            f"the loss {names!r} names {' and '.join(objectives)}, of which each is an objective of its own; "
            f"choose one of them"
        )
        raise PlanError(msg)
    return tuple(LOSS_RULES[name] for name in listed)


def _is_void(reason: Reason, configurations: dict[str, ConfigurationPlan]) -> bool:
    """Returns whether a reason is about batch Dice in a configuration of which no term depends on it."""
    name, _, subject = reason.subject.rpartition(": ")
    if subject != "batch Dice":
        return False
    return not any(hasattr(term, "batch_dice") for term in configurations[name].training.losses)
