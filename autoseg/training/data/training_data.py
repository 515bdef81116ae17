"""The data of one training."""

from dataclasses import dataclass
from pathlib import Path

from autoseg.dataset.folds import Fold
from autoseg.labels import LabelScheme
from autoseg.plan.preprocessing import ChannelPlan
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.data.synthetic_cases import SyntheticCases


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Preprocessed cases of a configuration, and which of them train.

    Attributes:
        labels: Meaning of the numbers in label maps.
        channels: Channels of the images, without those that come from a previous stage.
        folder: Preprocessed cases of the configuration `ConfigurationPlan.data_of`.
        fold: Training and held-out cases.
        previous: Input from `ConfigurationPlan.previous_stage` for these cases; None without one.
        synthetic: Synthetic cases, which train beside those of the fold and are never held out; None without them.
    """

    labels: LabelScheme
    channels: tuple[ChannelPlan, ...]
    folder: Path
    fold: Fold
    previous: StoredStageInput | None = None
    synthetic: SyntheticCases | None = None

    @property
    def previous_digest(self) -> str | None:
        """Digest of the weights that made the predictions of the previous stage."""
        return None if self.previous is None else self.previous.digest

    @property
    def synthetic_digest(self) -> str | None:
        """Digest of the record of the synthetic cases."""
        return None if self.synthetic is None else self.synthetic.digest
