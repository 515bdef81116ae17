"""Mirroring by what was measured of the labels."""

import pytest
from builders.fingerprints import build_fingerprint
from builders.labels import build_labels

from autoseg.fingerprint import MirrorOverlap
from planners.timed.mirroring import choose_mirroring, pair_names

SIDED = {"kidney_left": (1,), "spine": (2,), "kidney_right": (3,)}
ANY = {"a": (1,), "b": (2,), "c": (3,)}


def overlap(label, own, partner=None, partner_overlap=0.0, *, axis=2):
    return MirrorOverlap(
        label=label, axis=axis, case_count=9, own=own, partner=partner, partner_overlap=partner_overlap
    )


SYMMETRIC = (overlap(1, 0.02, 3, 0.7), overlap(2, 0.8), overlap(3, 0.03, 1, 0.7))
ONE_SIDED = (overlap(1, 0.1, 3, 0.3), overlap(2, 0.2), overlap(3, 0.1, 1, 0.3))
UNLIKE = (overlap(1, 0.3, 2, 0.5), overlap(2, 0.2, 1, 0.5), overlap(3, 0.6))


def choose(classes=SIDED, overlaps=SYMMETRIC, *, orientation="LPS", permutation=(0, 1, 2), dimensions=3, **changes):
    fingerprint = build_fingerprint(
        (1.0, 1.0, 1.0),
        (40, 40, 40),
        labels=build_labels(classes, **changes),
        mirror_overlaps=overlaps,
        orientation=orientation,
    )
    decision = choose_mirroring(fingerprint, permutation, dimensions)
    return [part.model_dump() for part in decision.value], decision.because


def pairs(axis, *found):
    return {"name": "mirror_pairs", "axis": axis, "pairs": found}


@pytest.mark.parametrize(
    ("orientation", "permutation", "dimensions", "axis"),
    [("LPS", (0, 1, 2), 3, 2), ("LPS", (2, 0, 1), 3, 0), ("LPS", (0, 1, 2), 2, 1)],
)
def test_symmetric_anatomy_is_mirrored_between_left_and_right_with_its_labels(
    orientation, permutation, dimensions, axis
):
    transforms, because = choose(orientation=orientation, permutation=permutation, dimensions=dimensions)
    assert transforms == [pairs(axis, (1, 3))]
    assert "kidney_left and kidney_right are each other's mirror image, Dice 0.70" in because
    assert "by a Dice of 0.73 on average" in because


def test_left_and_right_are_found_along_the_axis_that_the_orientation_names():
    overlaps = tuple(entry.model_copy(update={"axis": 0}) for entry in SYMMETRIC)
    assert choose(overlaps=overlaps, orientation="PSR")[0] == [pairs(0, (1, 3))]
    assert choose(overlaps=overlaps, orientation="LPS")[0] == []


@pytest.mark.parametrize(
    ("classes", "overlaps", "words"),
    [
        (SIDED, ONE_SIDED, "by a Dice of 0.27 on average"),
        (SIDED, UNLIKE, "kidney_left and kidney_right are not each other's mirror image"),
        (SIDED, (), "known by their names alone"),
        (ANY, UNLIKE, "by a Dice of 0.37 on average"),
        (ANY, (), "prediction takes one pass instead of 8"),
    ],
)
def test_other_images_of_a_known_orientation_are_not_mirrored(classes, overlaps, words):
    transforms, because = choose(classes, overlaps)
    assert transforms == []
    assert words in because
    assert "every image is brought to the orientation LPS" in because


ALIKE = tuple(overlap(label, own, axis=axis) for axis, own in ((0, 0.5), (1, 0.8), (2, 0.69)) for label in (1, 2))


@pytest.mark.parametrize(
    ("classes", "overlaps", "expected", "words"),
    [
        (ANY, ALIKE, [{"name": "mirror", "axes": (1,)}], "mean Dice of z 0.50, y 0.80, x 0.69"),
        (ANY, (*ALIKE[2:4], overlap(1, 0.75)), [{"name": "mirror", "axes": (1, 2)}], "mirrored along y and x, where"),
        (SIDED, (*ALIKE[2:4], overlap(1, 0.75)), [{"name": "mirror", "axes": (1,)}], "mirrored along y, where"),
        (
            SIDED,
            (*ALIKE[2:4], *SYMMETRIC),
            [{"name": "mirror", "axes": (1,)}, pairs(2, (1, 3))],
            "left and right, where",
        ),
        (ANY, ALIKE[:2], [], "nothing is mirrored"),
    ],
)
def test_axes_along_which_labels_are_their_own_mirror_images_are_mirrored(classes, overlaps, expected, *, words):
    transforms, because = choose(classes, overlaps)
    assert transforms == expected
    assert words in because


def test_slices_across_the_axis_between_left_and_right_are_not_mirrored():
    assert choose(permutation=(2, 0, 1), dimensions=2)[0] == []


def test_labels_that_are_each_others_mirror_image_are_paired_whatever_their_names():
    assert choose(ANY, SYMMETRIC)[0] == [pairs(2, (1, 3))]
    vague = (overlap(1, 0.2, 3, 0.7), *SYMMETRIC[1:])
    assert choose(ANY, vague)[0] == []


@pytest.mark.parametrize(
    ("classes", "overlaps", "expected", "words"),
    [
        (ANY, (), [{"name": "mirror", "axes": (0, 1)}], "all 2 axes are mirrored, here and in prediction"),
        (ANY, UNLIKE, [{"name": "mirror", "axes": (0, 1)}], "by a Dice of 0.37"),
        (SIDED, SYMMETRIC, [{"name": "mirror", "axes": (0,)}, pairs(1, (1, 3))], "paired labels change places"),
        (SIDED, (), [{"name": "mirror", "axes": (0,)}], "is not mirrored, so that left and right stay apart"),
        (SIDED, UNLIKE, [{"name": "mirror", "axes": (0,)}], "not each other's mirror image"),
    ],
)
def test_pictures_are_mirrored_along_every_axis_but_for_left_and_right(classes, overlaps, expected, *, words):
    transforms, because = choose(classes, overlaps, orientation=None, dimensions=2)
    assert transforms == expected
    assert words in because


def test_regions_without_a_counterpart_are_not_mirrored():
    one_sided = {"kidneys": (1, 3), "kidney_left": (1,), "both_and_spine": (1, 2)}
    assert choose(one_sided, SYMMETRIC, region_write_values=(3, 1, 2))[0] == []
    both = {"kidneys": (1, 3), "kidney_left": (1,), "kidney_right": (3,), "spine": (2,)}
    assert choose(both, SYMMETRIC, region_write_values=(3, 1, 3, 2))[0] == [pairs(2, (1, 3))]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("kidney_left", "kidney_right"), ((1, 2),)),
        (("Right Kidney", "Left Kidney"), ((2, 1),)),
        (("kidneyRight", "kidneyLeft"), ((2, 1),)),
        (("lh.hippocampus", "rh.hippocampus"), ((1, 2),)),
        (("femur_L", "femur_R"), ((1, 2),)),
        (("L2", "R2"), ((1, 2),)),
        (("rib_left_1", "rib_left_2", "rib_right_2", "rib_right_1"), ((1, 4), (2, 3))),
        (("leftover", "rightover"), ()),
        (("left lung", "right kidney"), ()),
        (("L1", "L2"), ()),
        (("lung left", "lung right", "aorta"), ((1, 2),)),
        (("Lung-L", "lung_l", "lung_r"), ()),
        (("lung left", "Lung_Left", "lung right", "kidney_l", "kidney_r"), ((4, 5),)),
        (("left rib left", "right rib left", "left rib right"), ()),
    ],
)
def test_names_that_differ_by_the_side_alone_are_paired(names, expected):
    assert pair_names(dict(enumerate(names, start=1))) == expected
