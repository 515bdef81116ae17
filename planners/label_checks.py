"""Checks of labels before images are measured: which networks no dataset with such labels can have."""

from collections.abc import Iterator
from typing import Final

from autoseg.errors import PlanError
from autoseg.labels import InstanceTargets, LabelScheme
from planners.architectures.mask_rcnn import check_targets
from planners.heads import Head
from planners.profile import ChooseNetwork
from planners.rules.network_data import adapt_network
from planners.rules.topology import FEWEST_STAGES, Topology, TopologyRule

LARGE_PATCHES: Final = ((256, 256), (128, 128, 128))
"""Patches that every network takes, at 1 mm: what is refused for both is refused for its labels, its parts or both."""


def check_network(
    choose_network: ChooseNetwork,
    *,
    topology: TopologyRule,
    has_slices: bool,
    head: Head | None,
    labels: LabelScheme,
    targets: InstanceTargets | None,
) -> None:
    """Checks that there is a network in 2D or 3D for such labels.

    Args:
        choose_network: The network for a topology.
        topology: Rule for dividing a patch.
        has_slices: Whether there is a network for slices.
        head: Replaces its last stages.
        labels: Labels of a plan.
        targets: Core and border by which objects are told apart; None: they are not.

    Raises:
        PlanError: There is neither.
    """
    problems = []
    for shape in _list_topologies(topology, has_slices=has_slices):
        try:
            _check_for_topology(choose_network, shape, head=head, labels=labels, targets=targets)
        except PlanError as error:
            problems.append(error)
        else:
            return
    if problems:
        raise problems[0]


def _list_topologies(rule: TopologyRule, *, has_slices: bool) -> Iterator[Topology]:
    """Lists the large patches for which the rule has any network."""
    for extents in LARGE_PATCHES:
        topology = rule.compute((1.0,) * len(extents), extents)
        if topology.stage_count >= FEWEST_STAGES and (has_slices or len(extents) > 2):
            yield topology


def _check_for_topology(
    choose_network: ChooseNetwork,
    topology: Topology,
    *,
    head: Head | None,
    labels: LabelScheme,
    targets: InstanceTargets | None,
) -> None:
    network, _ = choose_network(topology, input_channels=1, output_channels=labels.output_channel_count)
    if network.finds_objects:
        check_targets(targets)
    if head is not None:
        network = head.choose(network)
    adapt_network(network, labels, ())
