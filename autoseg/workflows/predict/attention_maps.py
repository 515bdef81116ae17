"""Attention maps of a prediction: recorded with the logits, window by window, and written for every image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jaxtyping import Float32
from torch import Tensor

from autoseg.document import read_document
from autoseg.errors import PredictionError
from autoseg.inference.ensemble import MemberChoice
from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.inference.folds import find_configuration
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import PredictionOptions
from autoseg.inference.restoring.restore_grid import restore_maps
from autoseg.inference.sliding_window.prediction import OnWindow
from autoseg.networks.attention_maps import RecordingNetwork, find_attention_maps
from autoseg.networks.cost import META
from autoseg.networks.families import build_network
from autoseg.networks.parts.planes import change_planes, list_planes
from autoseg.plan.document import Plan
from autoseg.plan.network.base import NetworkPlan
from autoseg.run_folder import RunFolder
from autoseg.stages.staged_case import StagedCase
from autoseg.workflows.predict.recorded_maps import MAP_ENDING, Maps

MAPS_FOLDER: Final = "attention_maps"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRecorder:
    """A model that predicts and writes its attention maps.

    Attributes:
        model: Its networks return the maps as channels after those of the classes.
        classes: Number of the classes' channels.
        titles: Titles of the maps.
        out: Folder of the label maps.
    """

    model: SegmentationModel
    classes: int
    titles: tuple[str, ...]
    out: Path

    def find_paths(self, case: str) -> tuple[Path, ...]:
        """Returns the files of a case, one per map."""
        return tuple(self.out / MAPS_FOLDER / f"{case}_{title}{MAP_ENDING}" for title in self.titles)

    def predict_case(
        self, case: str, read: Sequence[StagedCase], *, options: PredictionOptions, on_window: OnWindow
    ) -> tuple[tuple[Float32[Tensor, "class z y x"], ...], Maps]:
        """Computes the logits of a case, and its maps on the grid of the image, in steps of 1 / 255."""
        recorded = self.model.predict_case(read[0], options=options, on_window=on_window)
        resampling, geometry = self.model.configuration_plan.resampling, read[0].geometry
        restored = restore_maps(recorded[self.classes :], geometry, resampling=resampling)
        return (recorded[: self.classes],), dict(zip(self.find_paths(case), restored, strict=True))


def build_recorder(model: SegmentationModel, out: Path) -> MapRecorder:
    """Builds what predicts with a model whose networks run as they are, and writes attention maps into a folder.

    Raises:
        PredictionError: The networks compute no attention maps.
    """
    networks = tuple(change_planes(network, RecordingNetwork) for network in model.networks)
    plan, configuration = model.plan, model.configuration_plan
    classes, titles = configuration.network.output_channels, RecordingNetwork(list_planes(model.networks[0])[0]).titles
    if not titles:  # a fold may have been trained by another plan than that of the run
        raise PredictionError(_explain_no_maps(model.configuration, configuration.network))
    wide = configuration.network.model_copy(update={"output_channels": classes + len(titles)})
    configurations = plan.configurations | {model.configuration: configuration.model_copy(update={"network": wide})}
    recording = replace(model, networks=networks, plan=plan.model_copy(update={"configurations": configurations}))
    return MapRecorder(model=recording, classes=classes, titles=titles, out=out)


def check_attention_maps(run: RunFolder, members: Sequence[MemberChoice], *, execution: ExecutionChoice) -> None:
    """Checks that the chosen model computes attention maps, before anything is loaded.

    Raises:
        PredictionError: It computes none, several models are averaged, or its networks are not to run as they are.
    """
    if len(members) > 1:
        names = " and ".join(str(member.configuration) for member in members)
        msg = (
            f"attention maps are those of one model, but {names} are averaged; name one of them: --configuration "
            f"{members[0].configuration}"
        )
        raise PredictionError(msg)
    if execution not in ("auto", "eager"):
        msg = f"attention maps need the execution 'eager', found {execution!r}; leave out --execution"
        raise PredictionError(msg)
    plan = read_document(run.plan, Plan)
    name = find_configuration(run, plan, members[0].configuration)
    part = plan.configurations[name]
    if part.is_class_by_class:
        msg = (
            f"attention maps are those of whole images, and {name} sees patches of one class at a time; predict "
            f"without --attention-maps, or with --configuration {part.previous_configuration}"
        )
        raise PredictionError(msg)
    network = part.network
    with META:
        found = find_attention_maps(build_network(network))
    if not found:
        raise PredictionError(_explain_no_maps(name, network))


def _explain_no_maps(configuration: str, network: NetworkPlan) -> str:
    return (
        f"the network of {configuration} ({network.family}) computes no attention maps: predict without "
        f"--attention-maps, or train one that does, such as those of autoseg plan --architecture attention_unet or "
        f"sau_net"
    )
