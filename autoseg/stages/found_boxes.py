"""Boxes that a stage finds in an image, and the one in which the next stage predicts, in voxels of the file."""

import math
from collections.abc import Iterator

import numpy as np

from autoseg.nonzero_region import Box, number_components, slice_box
from autoseg.plan.document import Plan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.stages.previous_input import StagePrediction
from autoseg.stages.staged_case import FoundBox


def list_boxes(
    prediction: StagePrediction, box: Box | None, geometry: CaseGeometry, *, plan: Plan, configuration: str
) -> list[FoundBox]:
    """Lists the boxes around the components of every class that a stage finds, the surest first, then the one of all.

    Args:
        prediction: Prediction of the previous stage.
        box: The box in which the next stage predicts, on its own grid; None for the whole image.
        geometry: Geometry of the case, preprocessed for the next stage.
        plan: The plan of both stages.
        configuration: The next stage.
    """
    previous = plan.configurations[configuration].previous_configuration
    assert previous is not None, "there is no previous stage"
    found = sorted(_find_components(prediction, plan, previous), key=lambda one: -(one.score or 0.0))
    whole = geometry.resampled_shape_voxels
    used = box or ((0, whole[0]), (0, whole[1]), (0, whole[2]))
    place = locate_in_file(used, geometry)
    return [*found, FoundBox(configuration=configuration, class_name=None, score=None, box=place)]


def _find_components(prediction: StagePrediction, plan: Plan, configuration: str) -> Iterator[FoundBox]:
    from scipy import ndimage  # imported here because it takes 0.3 s

    geometry = prediction.geometry
    label_map = prediction.restore_on(geometry.resampled_shape_voxels)
    for name, members, outputs in _list_classes(plan):
        components = number_components(np.isin(label_map, members))
        for number, place in enumerate(ndimage.find_objects(components), start=1):
            box = tuple((part.start, part.stop) for part in place)
            score = None
            if prediction.compute_scores is not None:
                scores = prediction.compute_scores(slice_box((box[0], box[1], box[2])))[outputs].max(axis=0)
                score = round(float(scores[components[place] == number].max()), 4)
            yield FoundBox(
                configuration=configuration,
                class_name=name,
                score=score,
                box=locate_in_file((box[0], box[1], box[2]), geometry),
            )


def _list_classes(plan: Plan) -> Iterator[tuple[str, tuple[int, ...], list[int]]]:
    """Yields name, labels and outputs of every class of the dataset; parts of objects belong to their class."""
    if plan.instances is None:
        for index, (name, members) in enumerate(zip(plan.labels.class_names, plan.labels.class_labels, strict=True)):
            yield name, members, [index]
        return
    count, labels = plan.instances.class_count, plan.labels.foreground_labels
    for index, name in enumerate(plan.dataset_labels.class_names):
        yield name, labels[index::count], [label - 1 for label in labels[index::count]]


def locate_in_file(box: Box, geometry: CaseGeometry) -> Box:
    """Returns the voxels of the file that a box of a preprocessed image touches, along the axes z, y, x of the file."""
    reorientation, shape = geometry.reorientation, geometry.uncropped_shape_voxels
    places = [(0, 0)] * 3
    axes = zip(box, geometry.resampled_shape_voxels, geometry.cropped_shape_voxels, geometry.crop_box, strict=True)
    for axis, ((first, end), resampled, cropped, (offset, _)) in enumerate(axes):
        lower, upper = offset + first * cropped // resampled, offset + math.ceil(end * cropped / resampled)
        flipped = (shape[axis] - upper, shape[axis] - lower)
        places[reorientation.permutation[axis]] = flipped if reorientation.is_flipped[axis] else (lower, upper)
    return places[0], places[1], places[2]
