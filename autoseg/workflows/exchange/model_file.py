"""Exports the models that a run predicts with to one file, without any training data."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import autoseg
from autoseg.dataset.cases import DESCRIPTION_NAME
from autoseg.dataset.record import DatasetRecord
from autoseg.document import read_document
from autoseg.errors import DocumentError, ExchangeError
from autoseg.evaluation.crossvalidation import ConfigurationScores, score_configuration
from autoseg.evaluation.summary import EvaluationSummary, list_class_keys
from autoseg.exchange.model_card import format_model_card
from autoseg.exchange.model_file import (
    ModelFileWriter,
    ModelRecord,
    SelectedScores,
    SharedConfiguration,
    extract_shared_plan,
    find_terms,
    is_model_file,
    write_model_file,
)
from autoseg.inference.ensemble import get_output_signature
from autoseg.inference.folds import find_configuration, find_folds, find_trained_folds, select_previous_folds
from autoseg.inference.model import check_stages_compatible, load_network, read_common_plan
from autoseg.networks.weights import read_label_autoencoder, serialize_weights
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.processes.progress import Progress
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration
from autoseg.run_folder import RunFolder, check_writable, open_run
from autoseg.runtime.provenance import TrainingRecord
from autoseg.untrusted.json_reading import read_json
from autoseg.workflows.exchange.request import ExchangedModel, ExportRequest
from autoseg.workflows.select.model_choice import check_weights, list_weights, resolve_models
from autoseg.workflows.select.selection_document import Member, Postprocessing, Selection

MODEL_ENDING: Final = ".zip"
LICENCE_KEYS: Final = ("licence", "license")

Digests = Mapping[tuple[str, str], str]  # of the weights of a configuration's fold


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFileContent:
    """Models that are exported to a file.

    Attributes:
        run: Run that holds the models.
        folds: Folds by configuration; previous stages are included.
        plans: Plan of the trainings by configuration.
        selection: Selection that the models come from; None if it is not used.
    """

    run: RunFolder
    folds: Mapping[str, tuple[str, ...]]
    plans: Mapping[str, Plan]
    selection: Selection | None

    @property
    def plan(self) -> Plan:
        """Joins the configurations of all plans in one plan."""
        first = next(iter(self.plans.values()))
        parts = [_collect_needed(plan, name) for name, plan in self.plans.items()]
        own = {name: plan.configurations[name] for name, plan in self.plans.items()}
        return extract_shared_plan(first, {name: part for closed in parts for name, part in closed.items()} | own)


def export_model_file(
    run_root: Path, output: Path, request: ExportRequest, *, progress: Progress
) -> tuple[ExchangedModel, ...]:
    """Exports trained models to one file for autoseg.

    Raises:
        PredictionError: Nothing is trained, a requested model is not trained, or the models do not fit together.
        SelectionError: A selected model was trained again since.
        PlanError: A selected network cannot be pruned to the selected depth.
        ExchangeError: The file exists, or its name has the wrong ending.
        RunError: There is no run, or the file cannot be written.
    """
    run = open_run(run_root)
    _check_output(output, overwrite=request.overwrite)
    shared = _collect(run, request, progress)
    licence = _find_licence(run, progress)
    with write_model_file(output, overwrite=request.overwrite) as writer:
        digests = _write_models(writer, shared, progress)
        selection = None if shared.selection is None else _share_selection(shared, shared.selection, digests)
        record = _describe(shared, digests, licence)
        inside = RunFolder(Path())
        writer.add_document(inside.plan, shared.plan)
        if selection is not None:
            writer.add_document(inside.selection, selection)
            _add_calibration(writer, run, shared.selection, selection)
        writer.add_document(inside.model_record, record)
        rules = () if selection is None else selection.postprocessing.rules
        writer.add(inside.model_card, format_model_card(record, shared.plan, rules).encode())
    return tuple(
        ExchangedModel(configuration=name, folds=folds, written=folds, folder=output)
        for name, folds in shared.folds.items()
    )


def _add_calibration(writer: ModelFileWriter, run: RunFolder, selection: Selection | None, exported: Selection) -> None:
    """Adds the calibration of the selected models, with the digests that their weights have in the file."""
    path = run.root / CALIBRATION_NAME
    if selection is None or not path.is_file():
        return
    calibration = read_document(path, QualityCalibration)
    if calibration.weights_sha256 == selection.weights_sha256:
        exported_calibration = calibration.model_copy(update={"weights_sha256": exported.weights_sha256})
        writer.add_document(Path(CALIBRATION_NAME), exported_calibration)


def list_exported(run: RunFolder, plan: Plan, request: ExportRequest) -> tuple[str, ...]:
    """Lists the requested configuration, or all trained ones.

    Raises:
        PredictionError: Nothing is trained.
        PlanError: The plan does not have the requested configuration.
    """
    names = tuple(name for name in plan.configurations if find_trained_folds(run, name))
    if request.configuration is not None or not names:
        return (find_configuration(run, plan, request.configuration),)
    return names


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.is_dir() or output.suffix.lower() != MODEL_ENDING:
        msg = (
            f"a model is exported to one file whose name ends in {MODEL_ENDING}, found the "
            f"{'folder' if output.is_dir() else 'name'} {output}; give, for example, --output "
            f"{output / 'model.zip' if output.is_dir() else output.with_name(output.name + MODEL_ENDING)}"
        )
        raise ExchangeError(msg)
    if output.exists() and not overwrite and not is_model_file(output):
        msg = f"{output} exists; choose another name, or replace it with --overwrite"
        raise ExchangeError(msg)
    check_writable(output.parent)


def _collect(run: RunFolder, request: ExportRequest, progress: Progress) -> ModelFileContent:
    """Collects the selected models, or those named in the request, or all trained ones."""
    plan = read_document(run.plan, Plan)
    choice = resolve_models(
        run, configuration=request.configuration, folds=request.folds, postprocessing=True, progress=progress
    )
    wanted: dict[str, tuple[str, ...] | None] = dict.fromkeys(list_exported(run, plan, request), request.folds)
    if choice.selection is not None:
        selected = {member.configuration: member.folds for member in choice.selection.members}
        weights = [list_weights(run, plan, name, folds) for name, folds in selected.items()]
        check_weights(run, choice, weights)
        _note_left_out([name for name in wanted if name not in selected], progress)
        wanted = dict(selected)
    folds: dict[str, tuple[str, ...]] = {}
    plans: dict[str, Plan] = {}
    for name, asked in wanted.items():
        _add(run, name, asked, folds=folds, plans=plans)
    for name, depth in _list_pruned(choice.selection).items():
        plans[name] = plans[name].prune(name, depth)
    _check_agreement(plans)
    return ModelFileContent(run=run, folds=folds, plans=plans, selection=choice.selection)


def _add(
    run: RunFolder,
    name: str,
    asked: Sequence[str] | None,
    *,
    folds: dict[str, tuple[str, ...]],
    plans: dict[str, Plan],
) -> None:
    """Adds folds of a configuration, and of its previous stages, to those already collected."""
    found = find_folds(run, name, asked)
    folds[name] = tuple(sorted({*folds.get(name, ()), *found}))
    plans[name] = read_common_plan([run.fold(name, fold) for fold in folds[name]], name)
    previous = plans[name].configurations[name].previous_configuration
    if previous is not None:
        _add(run, previous, select_previous_folds(asked), folds=folds, plans=plans)
        check_stages_compatible(plans[previous], plans[name], name)


def _list_pruned(selection: Selection | None) -> dict[str, int]:
    """Lists the depths of the selected networks that are pruned, by configuration."""
    members = () if selection is None else selection.members
    return {member.configuration: member.pruned_depth for member in members if member.pruned_depth is not None}


def _note_left_out(names: Sequence[str], progress: Progress) -> None:
    if names:
        progress.note(
            f"trained too, but not selected and so not in the file: {', '.join(names)} (--configuration names one)"
        )


def _check_agreement(plans: Mapping[str, Plan]) -> None:
    first, *others = plans
    for other in others:
        if get_output_signature(plans[other]) != get_output_signature(plans[first]):
            msg = (
                f"the models of one file must have the same labels, channels and axes, but the plans that {first} and "
                f"{other} were trained by differ in them; name one of them with --configuration"
            )
            raise ExchangeError(msg)


def _collect_needed(plan: Plan, name: str) -> dict[str, ConfigurationPlan]:
    """Collects a configuration and those that it refers to, without which the plan is invalid."""
    part = plan.configurations[name]
    others = {other for other in (part.data_of, part.previous_configuration) if other is not None} - {name}
    found = {name: part}
    for other in sorted(others):
        found |= _collect_needed(plan, other)
    return found


def _write_models(writer: ModelFileWriter, shared: ModelFileContent, progress: Progress) -> Digests:
    """Writes the weights alone, without optimizer state and training history."""
    digests = {}
    folds = [(name, fold) for name, of_name in shared.folds.items() for fold in of_name]
    for name, fold in progress.track(folds, label="Exporting", total=len(folds), unit="fold"):
        plan, inside = shared.plans[name], RunFolder(Path()).fold(name, fold)
        is_pruned = name in _list_pruned(shared.selection)
        training = shared.run.fold(name, fold)
        network = load_network(training, plan.configurations[name], is_pruned=is_pruned)
        weights = serialize_weights(network.state_dict(), read_label_autoencoder(training.final_checkpoint))
        writer.add(inside.final_checkpoint, weights)
        writer.add_document(inside.plan, extract_shared_plan(plan, _collect_needed(plan, name)))
        digests[name, fold] = hashlib.sha256(weights).hexdigest()
    return digests


def _share_selection(shared: ModelFileContent, selection: Selection, digests: Digests) -> Selection:
    """Copies the selection without the cases and scores that led to it; the plan of a pruned network is in the file."""
    postprocessing = selection.postprocessing
    return Selection(
        autoseg_version=selection.autoseg_version,
        cases=(),
        class_names=_name_classes(shared.plan),
        classes_without_reference=(),
        candidates=(),
        members=tuple(
            Member(
                configuration=member.configuration,
                folds=member.folds,
                weights_sha256=_list_digests(shared, member.configuration, member.folds, digests),
            )
            for member in selection.members
        ),
        because="",
        postprocessing=Postprocessing(
            rules=postprocessing.rules, steps=(), before=postprocessing.before, after=postprocessing.after
        ),
        prediction=selection.prediction,
        objects=selection.objects,
    )


def _list_digests(shared: ModelFileContent, name: str, folds: Sequence[str], digests: Digests) -> tuple[str, ...]:
    """Lists digests in the order of prediction: those of previous stages come first."""
    previous = shared.plans[name].configurations[name].previous_configuration
    own = tuple(digests[name, fold] for fold in folds)
    if previous is None:
        return own
    return (*_list_digests(shared, previous, select_previous_folds(folds) or shared.folds[previous], digests), *own)


def _describe(shared: ModelFileContent, digests: Digests, licence: str | None) -> ModelRecord:
    earlier = _read_record(shared.run)
    return ModelRecord(
        autoseg_version=autoseg.__version__,
        dataset_name=shared.plan.dataset_name,
        trained_with=_list_versions(shared) or (() if earlier is None else earlier.trained_with),
        licence=licence,
        class_names=_name_classes(shared.plan),
        configurations={
            name: SharedConfiguration(
                folds=folds,
                weights_sha256=tuple(digests[name, fold] for fold in folds),
                scores=_find_scores(shared, name, earlier),
            )
            for name, folds in shared.folds.items()
        },
        selected=None if shared.selection is None else _describe_selected(shared, shared.selection, earlier),
        terms=find_terms(shared.run),
    )


def _name_classes(plan: Plan) -> dict[str, str]:
    return dict(zip(list_class_keys(plan.labels), plan.labels.class_names, strict=True))


def _list_versions(shared: ModelFileContent) -> tuple[str, ...]:
    trainings = [shared.run.fold(name, fold) for name, folds in shared.folds.items() for fold in folds]
    paths = [training.training_record for training in trainings if training.training_record.is_file()]
    versions = [read_document(path, TrainingRecord).versions for path in paths]
    return tuple(sorted({f"autoseg {found.autoseg}, PyTorch {found.torch}" for found in versions}))


def _read_scores(run: RunFolder, name: str, folds: Sequence[str]) -> ConfigurationScores | None:
    """Reads mean scores over the held-out cases of the folds; the fold "all" has none."""
    paths = {fold: run.fold(name, fold).summary for fold in folds}
    summaries = {fold: read_document(path, EvaluationSummary) for fold, path in paths.items() if path.is_file()}
    return score_configuration(summaries) if summaries else None


def _find_scores(shared: ModelFileContent, name: str, earlier: ModelRecord | None) -> ConfigurationScores | None:
    """Finds mean scores over held-out cases, else those that an imported model of the same folds came with.

    Those of a whole network say nothing about a pruned one, of which the selection has the scores.
    """
    if name in _list_pruned(shared.selection):
        return None
    known = None if earlier is None else earlier.configurations.get(name)
    folds = shared.folds[name]
    imported = known.scores if known is not None and known.folds == folds else None
    return _read_scores(shared.run, name, folds) or imported


def _describe_selected(shared: ModelFileContent, selection: Selection, earlier: ModelRecord | None) -> SelectedScores:
    known = {} if earlier is None or earlier.selected is None else earlier.selected.classes
    classes = selection.candidates[0].classes if selection.candidates else known
    return SelectedScores(
        configurations=tuple(member.configuration for member in selection.members),
        foreground=selection.postprocessing.before,
        classes={key: classes[key] for key in _name_classes(shared.plan) if key in classes},
        postprocessed=selection.postprocessing.after,
    )


def _find_licence(run: RunFolder, progress: Progress) -> str | None:
    """Finds the licence that the dataset states, if its folder still exists."""
    earlier = _read_record(run)
    if earlier is not None or not run.dataset.is_file():
        return None if earlier is None else earlier.licence
    path = Path(read_document(run.dataset, DatasetRecord).source) / DESCRIPTION_NAME
    try:
        content: Any = read_json(path)
    except DocumentError:
        progress.note(f"warning: {path} cannot be read, so the file will not state the licence of the training data")
        return None
    stated = [content[key] for key in LICENCE_KEYS if key in content] if isinstance(content, dict) else []
    return next((" ".join(text.split()) for text in stated if isinstance(text, str) and text.strip()), None)


def _read_record(run: RunFolder) -> ModelRecord | None:
    """Reads the record of a run that was imported from one file; None for other runs."""
    return read_document(run.model_record, ModelRecord) if run.model_record.is_file() else None
