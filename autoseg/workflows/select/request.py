"""Options that a user chooses for a selection."""

from dataclasses import dataclass

from autoseg.dataset.folds import name_folds


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRequest:
    """Options that the user chose.

    Attributes:
        configurations: Configurations to compare; None compares all that have finished folds.
        folds: Folds to use; None uses every finished fold.
        ensembles: Whether pairs of configurations are candidates, too; their held-out cases are predicted for this.
        variants: Whether to measure prediction without mirrored views, with larger steps and other decodings, and to
            choose among them.
        device: Device for predicting with pairs, pruned networks and variants, and completing validations; "auto",
            "cpu", "cuda", "cuda:1" or "mps".
    """

    configurations: tuple[str, ...] | None = None
    folds: tuple[str, ...] | None = None
    ensembles: bool = True
    variants: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        """Takes folds also as numbers, and a single one by itself."""
        object.__setattr__(self, "folds", name_folds(self.folds))

    def list_options(self) -> tuple[str, ...]:
        """Lists the options of the command line that make the same request."""
        chosen = [word for name in self.configurations or () for word in ("--configuration", name)]
        chosen += [word for fold in self.folds or () for word in ("--fold", fold)]
        chosen += [] if self.ensembles else ["--no-ensembles"]
        chosen += [] if self.variants else ["--no-variants"]
        return (*chosen, *(() if self.device == "auto" else ("--device", self.device)))
