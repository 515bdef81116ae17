"""Limits of the export to nnU-Net that follow from the dataset, and so are known before training."""

from collections.abc import Iterator, Sequence
from typing import Final

from autoseg.dataset import Dataset
from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_preprocessing import explain_unreadable_ending
from autoseg.labels import LabelScheme
from autoseg.plan.document import Plan

INSTANCES_REASON: Final = (
    "nnU-Net has no counterpart of the task instances: it would write cores and borders, and no objects"
)


def check_no_instances(plan: Plan) -> None:
    """Checks that the model does not tell objects apart.

    Raises:
        ExchangeError: It does.
    """
    if plan.instances is not None:
        msg = f"{INSTANCES_REASON}; export it with --format autoseg, or plan without --task instances"
        raise ExchangeError(msg)


def describe_export_limits(dataset: Dataset) -> tuple[str, ...]:
    """Returns notes about a dataset whose models cannot be exported to nnU-Net; empty if they can."""
    instances = () if dataset.targets is None else (INSTANCES_REASON,)
    found = (*instances, *explain_unreadable_ending(dataset.file_ending), *_explain_values(dataset.labels))
    reasons = "; ".join(found)
    if not reasons:
        return ()
    return (f"models of this dataset cannot be exported to nnU-Net (autoseg export --format nnunet): {reasons}",)


def check_label_values(labels: LabelScheme) -> None:
    """Checks that the values of the labels are the output indices, which nnU-Net writes as values.

    Raises:
        ExchangeError: They differ.
    """
    for reason in _explain_values(labels):
        msg = f"{reason}; it would write other values than the dataset has, so the model is not exported"
        raise ExchangeError(msg)


def compute_ignore_value(labels: LabelScheme) -> int:
    """Returns the value that nnU-Net requires for the ignore label."""
    return max(_list_predicted_values(labels)) + 1


def _explain_values(labels: LabelScheme) -> Iterator[str]:
    values = _list_predicted_values(labels)
    if not labels.has_regions and list(values) != list(range(len(values))):
        shown = ", ".join(str(value) for value in values)
        yield f"nnU-Net writes labels 0, 1, 2, ... without gaps, but this model's are {shown}"


def _list_predicted_values(labels: LabelScheme) -> Sequence[int]:
    return labels.file_values if labels.ignore_value is None else labels.file_values[:-1]
