"""`autoseg predict`: segment new images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from autoseg.cli.terminal.completion import complete_configuration, complete_device, complete_fold
from autoseg.cli.terminal.options import DryRun, OnCases, SlurmSetting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoseg.processes.progress import Progress
    from autoseg.workflows.predict.model_source import OpenedModel
    from autoseg.workflows.predict.prediction import PredictionRequest


def predict(
    run: Annotated[
        Path, typer.Argument(help="Run folder with a trained model, an exported zip of one, or a model of nnU-Net v2.")
    ],
    images: Annotated[Path, typer.Argument(help="Folder of images or of DICOM series, or one image file.")],
    out: Annotated[Path, typer.Argument(help="Folder for the label maps.")],
    *,
    configuration: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_configuration,
            help="Model to use.  [default: selected by autoseg select, else the trained one]",
        ),
    ] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(autocompletion=complete_fold, help="Fold (repeatable).  [default: as for --configuration]"),
    ] = None,
    mirroring: Annotated[
        bool | None,
        typer.Option(
            "--mirroring/--no-mirroring",
            help="Average over mirrored views, or not.  [default: as autoseg select chose, else averaged]",
        ),
    ] = None,
    step_fraction: Annotated[
        float | None,
        typer.Option(min=0.05, max=1.0, help="Step of the sliding window as a share of the patch.  [default: 0.5]"),
    ] = None,
    decoding: Annotated[
        Literal["argmax", "dice"] | None,
        typer.Option(
            help="Most probable labels, or those of the highest expected Dice.  [default: as autoseg select chose, "
            "else argmax]"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time for an image, such as 30s: gives up what costs little Dice to fit."),
    ] = None,
    no_postprocessing: Annotated[
        bool, typer.Option("--no-postprocessing", help="Skip the postprocessing that autoseg select accepted.")
    ] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write class probabilities (.b2nd, float16).")
    ] = False,
    attention_maps: Annotated[
        bool,
        typer.Option("--attention-maps", help="Also write what attention gates and shape streams weight (NIfTI)."),
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Also write entropy and disagreement of folds and views (NIfTI, 8 bit)."),
    ] = False,
    device: Annotated[
        str, typer.Option(autocompletion=complete_device, help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Precision of the computation; float32 is the reference, auto the fastest."),
    ] = "auto",
    execution: Annotated[
        Literal["auto", "eager", "compiled", "openvino", "captured", "fused"],
        typer.Option(help="What runs networks; auto takes what finishes first (captured and fused: CUDA graphs)."),
    ] = "auto",
    series: Annotated[
        list[str] | None,
        typer.Option(help="DICOM series by UID, number or description (repeatable).  [default: all]"),
    ] = None,
    also_format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="dicom-seg|rtstruct",
            help="Of DICOM, write this besides NIfTI (repeatable); needs autoseg[dicom].",
        ),
    ] = None,
    terms: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Coded terms of classes for --format, as in dataset.json."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace label maps of other predictions.")] = False,
    on: OnCases = None,
    slurm: SlurmSetting = None,
    dry_run: DryRun = False,
) -> None:
    """Segment images; every label map is on the grid of its image. A repeated call keeps finished images."""
    from autoseg.cli.terminal.console import open_console
    from autoseg.cli.terminal.options import parse_duration, parse_formats
    from autoseg.workflows.predict.model_source import open_model
    from autoseg.workflows.predict.prediction import PredictionRequest

    console = open_console()
    request = PredictionRequest(
        configuration=configuration,
        folds=tuple(fold) if fold else None,
        mirroring=mirroring,
        step_fraction=step_fraction,
        decoding=decoding,
        budget_seconds=None if budget is None else parse_duration(budget),
        postprocessing=not no_postprocessing,
        save_probabilities=save_probabilities,
        attention_maps=attention_maps,
        uncertainty=uncertainty,
        device=device,
        precision=precision,
        execution=execution,
        series=tuple(series or ()),
        formats=parse_formats(also_format or ()),
        terms=terms,
        overwrite=overwrite,
    )
    with open_model(run, configuration=configuration, folds=request.folds, progress=console) as model:
        predict_at(
            on, images, out, model=model, settings=slurm or (), request=request, dry_run=dry_run, progress=console
        )


def predict_at(
    on: str | None,
    images: Path,
    out: Path,
    *,
    model: "OpenedModel",
    settings: "Sequence[str]",
    request: "PredictionRequest",
    dry_run: bool,
    progress: "Progress",
) -> None:
    """Predicts in this process, or at another place by one piece of work an image, whose jobs a dry run only shows."""
    from dataclasses import replace

    from autoseg.places import HERE, open_place
    from autoseg.workflows.predict.image_tasks import describe_predicting, predict_images_in_tasks
    from autoseg.workflows.predict.prediction import predict_images

    chosen = replace(request, configuration=model.configuration)
    with open_place(on or HERE, model.run, settings) as place:
        if dry_run:
            typer.echo(describe_predicting(model.run, images, out, request=chosen, place=place, progress=progress))
            return
        if on in (None, HERE):
            outcome = predict_images(model.run, images, out, request=chosen, progress=progress)
        else:
            outcome = predict_images_in_tasks(model.run, images, out, request=chosen, place=place, progress=progress)
    progress.note(f"{outcome.describe()} in {out}")
