"""Prepares the folder of a prediction: what the same model and options made is kept, anything else is protected."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from autoseg.errors import RunError, shorten_names
from autoseg.file_endings import list_parts
from autoseg.files.checksums import compute_sha256
from autoseg.remote.address import is_url, join_url
from autoseg.remote.local_files import use_local
from autoseg.untrusted.names import describe_name
from autoseg.workflows.predict.prediction_folder import (
    DICOM_SOURCE,
    OUTPUT_ENDINGS,
    PLAN_NAME,
    RECORD_NAME,
    PredictionRecord,
    complete_record,
    describe_image,
    find_output_problem,
    list_changes,
    read_record,
    refuse_changes,
)


def prepare_folder(out: Path, record: PredictionRecord, *, overwrite: bool) -> PredictionRecord:
    """Keeps what the same model and options made; what anything else made needs permission to be replaced.

    One folder never holds the label maps of two models: those that another one made are all removed. An interruption
    leaves either the earlier record or the new one, and with it a folder that the same call continues. To be called
    under `lock_record`.

    Args:
        out: The folder.
        record: The model and options that are to make its label maps. Its outputs come with the names of images in
            its own folder, or their paths.
        overwrite: Permission to replace label maps of this and of other models; files that no prediction wrote, or
            that were changed since, are never replaced.

    Returns:
        The record with everything that the folder is to hold.
    """
    if (out / PLAN_NAME).exists() and not (out / RECORD_NAME).exists():
        msg = f"{out} holds a plan.json that is not of a prediction, perhaps it is a run; choose another folder"
        raise RunError(msg)
    _refuse_unusable_names(out, record.outputs)
    complete_record(out)
    earlier = read_record(out)
    made, digests, images = (
        ({}, {}, {}) if earlier is None else (earlier.outputs, earlier.sha256, earlier.image_versions)
    )
    changes = [] if earlier is None else list_changes(earlier, record)
    if earlier is not None and not changes:
        record = _describe_images_alike(record, earlier)
    if overwrite:
        removed = _remove_verified(out, (*record.outputs, *(made if changes else ())), digests)
        digests = {name: digest for name, digest in digests.items() if name not in removed}
    else:
        refuse_changes(out, changes)
        _refuse_strangers(out, record.outputs, made, digests)
    if changes:
        return record
    return record.model_copy(update={"outputs": made | record.outputs, "sha256": digests, "image_versions": images})


def check_unchanged(out: Path, names: Iterable[str], digests: Mapping[str, str]) -> None:
    """Checks that no file that a prediction is to write once more was changed since, such as a corrected label map.

    Label maps are made again where a file beside them is missing, such as probabilities or maps of uncertainty, and
    where the image is another one than before.

    Args:
        out: The folder, as `prepare_folder` left it.
        names: Names of label maps and probabilities.
        digests: Digests of the record.

    Raises:
        RunError: Some were changed.
    """
    parts = dict.fromkeys(part for name in names for part in list_parts(name))
    existing = [name for name in parts if name in digests and (out / name).is_file()]
    with use_local(*(out / name for name in existing)):
        changed = [name for name in existing if digests[name] != compute_sha256(out / name)]
    if changed:
        msg = (
            f"{out} lacks files that are made together with {shorten_names(changed)}, or their images are others than "
            f"before; these files were changed since they were predicted and would be replaced: move them away, or "
            f"choose another folder"
        )
        raise RunError(msg)


def _describe_images_alike(record: PredictionRecord, earlier: PredictionRecord) -> PredictionRecord:
    if record.images in (DICOM_SOURCE, earlier.images):  # images of series have identifiers, not paths
        return record.model_copy(update={"images": earlier.images})
    folder, old = record.images, earlier.images
    outputs = {
        name: join_url(folder, image) if is_url(folder) else describe_image(Path(folder) / image, old)
        for name, image in record.outputs.items()
    }
    return record.model_copy(update={"images": earlier.images, "outputs": outputs})


def _refuse_unusable_names(out: Path, outputs: Iterable[str]) -> None:
    for name in outputs:
        problem = find_output_problem(name, OUTPUT_ENDINGS)
        if problem is not None:
            msg = f"{out} cannot hold a label map {describe_name(name)}: {problem}; rename the image"
            raise RunError(msg)


def _remove_verified(out: Path, names: Iterable[str], digests: Mapping[str, str]) -> set[str]:
    """Removes files that predictions made; refuses, before anything is removed, if others are among them or some were
    changed since, such as corrected label maps."""
    parts = dict.fromkeys(part for name in names for part in list_parts(name))
    existing = [name for name in parts if (out / name).exists()]
    with use_local(*(out / name for name in existing)):
        others = [name for name in existing if digests.get(name) != compute_sha256(out / name)]
    if others:
        msg = (
            f"{out} holds files that label maps would replace, and --overwrite leaves {shorten_names(others)} as they "
            f"are not known to be made by a prediction, or were changed since; move them away or remove them, or "
            f"choose another folder"
        )
        raise RunError(msg)
    for name in existing:
        (out / name).unlink(missing_ok=True)
    return set(existing)


def _refuse_strangers(
    out: Path, outputs: Mapping[str, str], made: Mapping[str, str], digests: Mapping[str, str]
) -> None:
    """Files that no prediction of this kind made, or made of another image of the same name, such as x.mha of x.nii."""
    others = [name for name in outputs if name in made and made[name] != outputs[name]]
    if others:
        msg = (
            f"{out / others[0]} was made of {made[others[0]]}, not of {outputs[others[0]]} ({len(others)} in all); "
            f"choose another folder, or replace it with --overwrite"
        )
        raise RunError(msg)
    parts = dict.fromkeys(part for name in outputs for part in list_parts(name) if name not in made)
    existing = [name for name in parts if name not in digests and (out / name).exists()]
    if existing:
        msg = (
            f"{out} holds files that label maps would replace, such as {existing[0]} ({len(existing)} in all); "
            f"move them away, or choose another folder"
        )
        raise RunError(msg)
