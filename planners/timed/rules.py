"""The rules of the planner by time for configurations that are planned on request."""

from dataclasses import dataclass, replace
from functools import partial

from autoseg.fingerprint import Fingerprint
from autoseg.plan.augmentation import TransformPlan
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network import NetworkPlan
from planners.profile import ChooseNetwork
from planners.rules.median_shape import ResampledDataset
from planners.rules.topology import UNET_TOPOLOGY, Topology, TopologyRule
from planners.timed.candidates import Situation, choose_candidate, evaluate_candidate
from planners.timed.configuration import build_configuration, choose_timed_augmentation
from planners.timed.mirroring import choose_mirroring


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRules:
    """Every configuration may take the time of a fold.

    Attributes:
        situation: The conditions for which networks are chosen.
        width: Features of the first stage of a network whose patch is given.
    """

    situation: Situation
    width: int

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the dataset."""
        return self.situation.fingerprint

    @property
    def topology(self) -> TopologyRule:
        """The rule for dividing a patch."""
        return self.situation.topology

    @property
    def choose_bare_network(self) -> ChooseNetwork:
        """The network for a topology, whatever its inputs and outputs are, without a head."""
        return partial(self.situation.choose_network, width=self.width)

    def with_network(self, choose_network: ChooseNetwork) -> "TimedRules":
        """Returns the rules for another network, of its own width and with heads of its own."""

        def ignore_width(
            topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
        ) -> tuple[NetworkPlan, tuple[Reason, ...]]:
            del width
            return choose_network(topology, input_channels=input_channels, output_channels=output_channels)

        situation = replace(self.situation, choose_network=ignore_width, topology=UNET_TOPOLOGY, head=None)
        return replace(self, situation=situation)

    def choose_patch(self, dataset: ResampledDataset) -> Decision[Topology]:
        """Chooses the patch for data of a spacing."""
        candidate = choose_candidate(dataset, self.situation)
        return Decision(candidate.value.topology, candidate.because)

    def choose_batch_size(self, topology: Topology, dataset: ResampledDataset) -> Decision[int]:
        """Chooses the batch size for such patches."""
        return evaluate_candidate(dataset, topology, self.width, self.situation).batch

    def choose_augmentation(self, patch_voxels: tuple[int, ...]) -> Decision[tuple[TransformPlan, ...]]:
        """Chooses the augmentation for a patch."""
        mirroring = choose_mirroring(self.fingerprint, self.situation.axis_permutation, len(patch_voxels))
        return choose_timed_augmentation(patch_voxels, mirroring)

    def choose_configuration(
        self, name: str, dataset: ResampledDataset
    ) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
        """Decides everything about a configuration that works with its own preprocessed data."""
        return build_configuration(name, choose_candidate(dataset, self.situation), self.situation)
