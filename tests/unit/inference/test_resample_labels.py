import pytest
import torch
from builders.labels import build_labels, build_plain_labels

from autoseg.inference.restoring import resample_labels
from autoseg.inference.restoring.decoding import decode_labels
from autoseg.inference.restoring.resample_labels import iterate_label_slabs
from autoseg.inference.restoring.resample_logits import iterate_resampled_strips

OLD = (6, 7, 8)
NEAREST = [(False, False, False), (True, False, False), (False, True, False), (True, True, True)]
SHAPES = [(13, 15, 17), (24, 7, 3), (6, 7, 8), (4, 5, 6), (1, 1, 1), (6, 28, 32)]


def build_nested_regions(count):
    values = range(1, count + 1)
    regions = {f"r{index}": tuple(range(index, count + 1)) for index in values}
    return build_labels(regions, region_write_values=tuple(values))


def draw(classes, noise, seed=0):
    """Large bodies, more or less noisy."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 2, 3, 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=OLD, mode="nearest")[0]
    return 3 * smooth + noise * torch.randn(classes, *OLD, generator=generator)


def find_labels(logits, shape, labels, is_nearest, **options):
    found = torch.full(shape, -5, dtype=torch.int16)
    for slices, slab in iterate_label_slabs(logits, shape, labels, is_nearest=is_nearest, **options):
        assert (found[slices] == -5).all(), "every slice comes once"
        found[slices] = slab
    return found


def decide_everywhere(logits, shape, labels, is_nearest):
    """All classes interpolated at all voxels."""
    decided = torch.full(shape, -7, dtype=torch.int16)
    for strip in iterate_resampled_strips(logits, shape, is_nearest=is_nearest):
        decided[strip.z, strip.rows] = decode_labels(strip.logits, labels)
    return decided


@pytest.mark.parametrize(
    "labels",
    [
        build_plain_labels(1),
        build_plain_labels(11),
        build_nested_regions(1),
        build_nested_regions(5),
        build_nested_regions(64),
    ],
)
@pytest.mark.parametrize("is_nearest", NEAREST)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
def test_labels_are_those_of_logits_interpolated_everywhere(labels, is_nearest, shape, noise):
    logits = draw(labels.output_channel_count, noise)
    expected = decide_everywhere(logits, shape, labels, is_nearest)
    assert torch.equal(find_labels(logits, shape, labels, is_nearest), expected)
    assert torch.equal(find_labels(logits, shape, labels, is_nearest, chunk_bytes=40_000), expected)


@pytest.mark.parametrize("labels", [build_plain_labels(11), build_nested_regions(5)])
def test_cells_may_come_one_by_one(labels):
    logits = draw(labels.output_channel_count, 1.0)
    expected = decide_everywhere(logits, (13, 15, 17), labels, NEAREST[0])
    assert torch.equal(find_labels(logits, (13, 15, 17), labels, NEAREST[0], chunk_bytes=1), expected)


def test_equal_classes_everywhere_give_the_lowest():
    assert (find_labels(torch.zeros(5, *OLD), (13, 15, 17), build_plain_labels(4), NEAREST[0]) == 0).all()


def test_half_precision_is_interpolated_in_single_precision():
    logits, labels = draw(6, 1.0).half(), build_plain_labels(5)
    found = find_labels(logits, (13, 15, 17), labels, NEAREST[0])
    assert torch.equal(found, find_labels(logits.float(), (13, 15, 17), labels, NEAREST[0]))


def test_differences_below_rounding_are_decided_by_the_interpolated_values():
    """Where two classes differ by the last digit of single precision, as interpolating everywhere decides."""
    generator = torch.Generator().manual_seed(0)
    first = 1 + torch.rand(1, *OLD, generator=generator)
    last_digits = torch.randint(-1, 2, (3, *OLD), generator=generator) * torch.finfo(torch.float32).eps
    logits = torch.cat([first, first + last_digits])
    expected = decide_everywhere(logits, (24, 28, 32), build_plain_labels(3), NEAREST[0])
    assert torch.equal(find_labels(logits, (24, 28, 32), build_plain_labels(3), NEAREST[0]), expected)
    assert len(expected.unique()) == 4


def test_only_cells_in_which_labels_meet_are_interpolated(monkeypatch):
    """Two halves: one layer of cells between them."""
    logits = torch.zeros(2, *OLD)
    logits[1, :, :, 4:] = 1
    logits[0, :, :, :4] = 1
    interpolated = []
    original = resample_labels._Cells.decide
    monkeypatch.setattr(
        resample_labels._Cells, "decide", lambda cells: (interpolated.append(len(cells.x)), original(cells))[1]
    )
    found = find_labels(logits, (12, 14, 16), build_plain_labels(1), NEAREST[0])
    assert (found[..., :8] == 0).all()
    assert (found[..., 8:] == 1).all()
    assert sum(interpolated) == 6 * 7
