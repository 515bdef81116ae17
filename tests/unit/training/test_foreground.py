from itertools import pairwise

import numpy as np
import pytest

from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.training.data.foreground import (
    MOST_VOXELS_PER_COMPONENT,
    ForegroundIndex,
    find_classes,
    list_component_voxels,
)


def make_case(label_map, class_labels, name="only"):
    """A case of which one location per class is stored."""
    parts = [np.argwhere(np.isin(label_map, members))[:1].astype(np.int32) for members in class_labels]
    return CachedCase(
        name=name,
        image=label_map[None].astype(np.float32),
        label_map=label_map,
        locations=ClassLocations(
            coordinates=np.concatenate(parts),
            class_ranges=tuple(pairwise(np.cumsum([0, *map(len, parts)]).tolist())),
            annotated_range=None,
        ),
        geometry=CaseGeometry.model_construct(),
    )


@pytest.fixture
def label_map():
    """Label 1: a large and a small piece; label 2: one piece that touches a corner of another."""
    labels = np.zeros((6, 20, 20), dtype=np.int16)
    labels[0:5, 0:15, 0:15] = 1
    labels[5, 19, 19] = 1
    labels[0, 17, 17] = 2
    labels[1, 18, 18] = 2
    return labels


def test_components_are_connected_through_corners(label_map):
    pieces = [list_component_voxels(label_map == label) for label in (1, 2)]
    assert [len(found) for found in pieces] == [2, 1]
    assert pieces[0][1].tolist() == [[5, 19, 19]]
    assert sorted(pieces[1][0].tolist()) == [[0, 17, 17], [1, 18, 18]]


def test_large_components_are_thinned_out_evenly(label_map):
    large = list_component_voxels(label_map == 1)[0]
    assert large.shape == (MOST_VOXELS_PER_COMPONENT, 3)
    assert large.dtype == np.int32
    assert len(np.unique(large, axis=0)) == len(large)
    assert large.mean(axis=0) == pytest.approx([2, 7, 7], abs=0.2)
    assert (label_map[tuple(large.T)] == 1).all()


def test_a_component_counts_even_if_none_of_its_voxels_is_a_stored_location(label_map):
    components = ForegroundIndex().list_components(make_case(label_map, [(1,), (2,)]), 0)
    assert len(components) == 2


def test_components_are_found_once_per_case_and_class(label_map):
    class Counted(np.ndarray):
        readings = 0

        def __getitem__(self, key):
            Counted.readings += isinstance(key, slice)
            return super().__getitem__(key)

    case = make_case(label_map.view(Counted), [(1,), (2,)])
    index = ForegroundIndex()
    first = index.list_components(case, 1)
    assert Counted.readings == 1
    assert index.list_components(case, 1) is first
    assert Counted.readings == 1
    assert len(index.list_components(case, 0)) == 2


def test_classes_of_a_fold_name_their_cases(label_map):
    cases = {
        "both": make_case(label_map, [(1,), (2,), (3,)], "both"),
        "first": make_case(np.where(label_map == 1, label_map, 0), [(1,), (2,), (3,)], "first"),
        "none": make_case(np.zeros_like(label_map), [(1,), (2,), (3,)], "none"),
    }
    found = find_classes(tuple(cases), cases.__getitem__)
    assert [(part.index, part.case_names) for part in found] == [(0, ("both", "first")), (1, ("both",))]
