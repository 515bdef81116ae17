import numpy as np
import pytest
import torch

from autoseg.plan.augmentation import find_problems
from autoseg.training.augmentation import masks, simulated_clicks, spatial, transform
from autoseg.training.augmentation.simulated_clicks import find_centre, number_errors
from autoseg.training.augmentation.transform import Patches, Sample, build_sample_draws
from autoseg.training.augmentation.transforms import build_transforms

LABELS = (1, 2)
OFFSET = 4  # above the labels 0 to 2 and the one that is ignored, 3


@pytest.fixture
def simulate(plan_transforms):
    """Builds the transform; the keyword arguments replace fields."""

    def build(**fields):
        (transform,) = build_transforms(plan_transforms(simulated_clicks=fields), (12, 12), LABELS)
        return transform

    return build


def draw_maps(shape=(12, 12), *, seed=0):
    """A reference with three labels, one to ignore and voxels outside, and a prediction with errors."""
    generator = np.random.default_rng(seed)
    reference = generator.integers(-1, 4, shape).astype(np.int16)
    return np.where(generator.random(shape) < 0.4, generator.integers(-1, 3, shape), reference).clip(-1, 2).astype(
        np.int16
    ), reference


def click(transform, predicted, reference):
    sample = Sample(
        image=np.zeros((1, *reference.shape), np.float32), label_map=reference, previous_label_map=predicted.copy()
    )
    transform.change_sample(sample)
    return sample.previous_label_map


@pytest.mark.parametrize("shape", [(12, 12), (5, 8, 8)])
@pytest.mark.parametrize("centre_probability", [0.0, 1.0])
def test_clicks_lie_on_errors_and_say_what_the_reference_is(simulate, shape, centre_probability):
    predicted, reference = draw_maps(shape)
    counts = set()
    for _ in range(60):
        marked = click(simulate(centre_probability=centre_probability), predicted, reference)
        is_click = marked >= OFFSET
        assert np.array_equal(marked[~is_click], predicted[~is_click])
        assert np.array_equal(marked[is_click] - OFFSET, reference[is_click].clip(0))
        assert (predicted.clip(0) != reference.clip(0))[is_click].all()
        assert (reference[is_click] != 3).all()
        counts.add(int(is_click.sum()))
    assert counts <= {1, 2, 3, 4, 5}
    assert len(counts) > 2


def test_without_errors_there_are_no_clicks(simulate):
    _, reference = draw_maps()
    predicted = np.where(reference == 3, 1, reference.clip(0)).astype(np.int16)
    assert np.array_equal(click(simulate(), predicted, reference), predicted)


def test_some_patches_get_no_clicks(simulate):
    predicted, reference = draw_maps()
    transform = simulate(none_probability=0.3)
    none = sum(not (click(transform, predicted, reference) >= OFFSET).any() for _ in range(200)) / 200
    assert 0.15 < none < 0.45


def test_larger_errors_are_clicked_more_often_at_their_centre(simulate):
    predicted, reference = np.zeros((2, 12, 12), np.int16)
    reference[1:10, 1:10] = 1
    reference[11, 11] = 2
    transform = simulate(most_clicks=1, centre_probability=1.0)
    places = [tuple(np.argwhere(click(transform, predicted, reference) >= OFFSET)[0].tolist()) for _ in range(200)]
    assert set(places) == {(5, 5), (11, 11)}
    assert places.count((11, 11)) < 15  # 82 voxels, of which it is one


def test_on_a_device_a_sample_is_clicked_in_the_same_way_in_every_batch(simulate, list_seeds):
    transform = simulate()
    maps = torch.from_numpy(np.stack([np.stack(draw_maps(seed=seed)[::-1]) for seed in range(3)]))
    image = torch.zeros((3, 1, 12, 12))

    def run(chosen):
        draws = build_sample_draws([list_seeds(3)[index] for index in chosen], channels=1)
        patches = Patches(image=image[chosen], label_maps=maps[chosen])
        return transform.change_patches(patches, transform.draw(draws)).label_maps

    whole = run([0, 1, 2])
    assert torch.equal(whole[:, 0], maps[:, 0])
    assert (whole[:, 1] >= OFFSET).flatten(1).sum(1).min() > 0
    assert torch.equal(whole[1:2], run([1]))
    assert torch.equal(whole, run([0, 1, 2]))
    assert not torch.equal(whole[0], whole[2])


def test_a_patch_without_a_previous_stage_is_left_alone(simulate, list_seeds):
    transform = simulate()
    sample = Sample(image=np.zeros((1, 4, 4), np.float32), label_map=np.zeros((4, 4), np.int16))
    transform.change_sample(sample)
    assert sample.previous_label_map is None
    patches = Patches(image=torch.zeros((1, 1, 4, 4)), label_maps=torch.zeros((1, 1, 4, 4), dtype=torch.int16))
    draws = build_sample_draws(list_seeds(1), channels=1)
    assert transform.change_patches(patches, transform.draw(draws)) is patches


def test_errors_that_touch_are_one_only_where_the_reference_has_one_label():
    predicted, reference = np.zeros((2, 3, 4), np.int16)
    reference[0] = [1, 1, 2, 2]
    reference[2] = [0, -1, 3, 3]
    errors = number_errors(predicted, reference, label_count=3)
    assert [len(np.unique(errors[0, :2])), len(np.unique(errors[0, 2:])), errors.max()] == [1, 1, 2]
    assert not errors[1:].any()


def test_the_centre_of_an_error_is_its_deepest_voxel_also_at_the_border():
    error = np.zeros((7, 9), bool)
    error[0:5, 0:5] = True
    error[2, 5:] = True
    assert find_centre(error) == (2, 2)


def test_clicks_belong_to_a_stage_that_gets_them_and_are_placed_last(plan_transforms):
    transforms = plan_transforms(simulated_clicks={}, noise={})
    (problem,) = find_problems(transforms, 2, stage_input="masks")
    assert problem.startswith(
        "training.transforms.0 (simulated_clicks): needs a previous stage whose input is 'clicks'"
    )
    assert find_problems(transforms, 2, stage_input="clicks") == []
    assert "(got 'masks')" in problem
    (problem,) = find_problems(transforms, 2, stage_input=None)
    assert "this configuration has none" in problem


def test_clicks_are_drawn_independently_of_all_other_transforms_of_a_sample():
    keys = [module.SPAWN_KEY for module in (masks, simulated_clicks, spatial, transform)]
    assert len(set(keys)) == len(keys)
