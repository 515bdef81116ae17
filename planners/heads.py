"""Heads that replace the last stages of a network, whatever its architecture: one row of a table each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from autoseg.errors import PlanError
from autoseg.plan.decisions import Decision
from autoseg.plan.network import AdditiveUPlan, NetworkPlan, PointRendPlan, StagedNetworkPlan, UNetPlan, UShapedPlan
from autoseg.plan.network.point_rend import find_skeleton_problem

COARSE_LEVEL: Final = 1
HIDDEN_LAYERS: Final = 3  # as published
MOST_HIDDEN_FEATURES: Final = 256  # as published
HIDDEN_PER_FEATURE: Final = 8  # 256 for the 32 features of the usual first stage
TRAINING_FRACTION: Final = {2: 1 / 16, 3: 1 / 64}
"""More than published (1 / 256, the voxels of an image at stride 16): the encoder learns its features of the full
resolution from these voxels alone, and thin vessels gained by 1 / 64 and again by 1 / 16. Fewer in 3D, a guess, as what
autograd keeps of points would take much of the memory that the head saves."""
PREDICTION_FRACTION: Final = 1 / 16
"""Guess: more than the voxels of a patch in which labels usually meet. As published, 0.4 % (photographs of 2048 x 1024
pixels) or 1.6 % (objects of 224 x 224)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A head of the literature.

    Attributes:
        name: Key of `HEADS`.
        because: Tells of a network with the head why it is as it is.
        choose: Chooses the network with the head in place of its last stages.
    """

    name: str
    because: Callable[[NetworkPlan], str]
    choose: Callable[[NetworkPlan], NetworkPlan]

    def explain(self, network: NetworkPlan) -> Decision[NetworkPlan]:
        """Explains a network that has the head."""
        return Decision(network, self.because(network))


def choose_point_rend(network: NetworkPlan) -> PointRendPlan:
    """Chooses PointRend: the decoder stops one level before the full resolution.

    Raises:
        PlanError: The decoder of the network cannot stop there.
    """
    problem = find_skeleton_problem(network)
    if problem is not None or not isinstance(network, StagedNetworkPlan):
        msg = (
            f"the head point_rend does not fit the network: {problem}; choose another --architecture, or leave out "
            f"--head"
        )
        raise PlanError(msg)
    weights = _list_weights(network)[COARSE_LEVEL:] or (1.0,)
    return PointRendPlan(
        dimensions=network.dimensions,
        input_channels=network.input_channels,
        output_channels=network.output_channels,
        skeleton=network,
        coarse_level=COARSE_LEVEL,
        hidden_features=min(MOST_HIDDEN_FEATURES, HIDDEN_PER_FEATURE * network.features_per_stage[0]),
        hidden_layers=HIDDEN_LAYERS,
        training_fraction=TRAINING_FRACTION[network.dimensions],
        prediction_fraction=PREDICTION_FRACTION,
        output_weights=tuple(weight / weights[0] for weight in weights),
    )


def _list_weights(network: StagedNetworkPlan) -> tuple[float, ...]:
    """Lists the weights of the outputs that the network would have by itself."""
    if isinstance(network, UNetPlan):
        count = network.stage_count - 2 if network.deep_supervision else 1
        return tuple(0.5**index for index in range(count))
    assert isinstance(network, UShapedPlan | AdditiveUPlan), "the only other skeletons"
    return network.output_weights


def _explain_point_rend(network: NetworkPlan) -> str:
    return (
        f"asked for: the decoder stops one level before the full resolution, whose features are the largest; a "
        f"perceptron of {HIDDEN_LAYERS} layers (as wide as {HIDDEN_PER_FEATURE} times the first stage, at most "
        f"{MOST_HIDDEN_FEATURES}) answers 1 in {1 / TRAINING_FRACTION[network.dimensions]:.0f} voxels in training "
        f"(1 in 256 as published in 2D, which is too few for thin structures), and the most uncertain 1 in "
        f"{1 / PREDICTION_FRACTION:.0f} in prediction (guess)"
    )


POINT_REND: Final = Head(name="point_rend", because=_explain_point_rend, choose=choose_point_rend)
HEADS: Final[dict[str, Head]] = {head.name: head for head in (POINT_REND,)}
"""By the names that `autoseg plan --head` takes."""
