import pytest
from builders.fingerprints import INTENSITIES

from autoseg.errors import PlanError
from autoseg.fingerprint import ChannelFingerprint
from autoseg.plan import IntensityWindow
from autoseg.plan.preprocessing import CT_NAME
from planners.rules.normalization import choose_normalization


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "none"),
        ("zscore", "zscore"),
        ("rescale_to_0_1", "rescale_to_0_1"),
        ("RGB_to_0_1", "rgb_to_0_1"),
        ("T2", "zscore"),
        ("CT ", "zscore"),
    ],
)
def test_the_name_of_a_channel_decides(name, scheme) -> None:
    assert _choose(name).value.normalization == scheme


def test_ct_takes_its_window_from_the_foreground() -> None:
    decision = _choose("CT", relative_size=0.3)
    assert decision.value.window == IntensityWindow(lower=-100.0, upper=900.0, mean=100.0, std=50.0)
    assert not decision.value.inside_nonzero_only
    assert "clipped to [-100, 900]" in decision.because
    assert "mean 100 and divided by its standard deviation 50" in decision.because


def test_ct_without_any_foreground_has_no_plan() -> None:
    with pytest.raises(PlanError, match=r"channel 'CT' is CT .* no case has a foreground voxel; check the label files"):
        _choose("CT", intensities=None)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"std": 0.0, "percentile_00_5": 1.0, "percentile_99_5": 1.0, "mean": 1.0}, r"divided, is 0 \(mean 1\)"),
        ({"percentile_00_5": 7.0, "percentile_99_5": 7.0}, "99 % of its foreground have the intensity 7"),
        ({"std": 1e-20}, "divided, is 1e-20"),
        ({"percentile_00_5": -3e38, "std": 1.0}, "standard deviations, which overflow"),
    ],
)
def test_ct_whose_foreground_has_no_contrast_has_no_plan(found, words) -> None:
    with pytest.raises(PlanError, match=f"'CT' is CT and .*{words}.* another name in dataset.json"):
        _choose("CT", intensities=INTENSITIES.model_copy(update=found))
    assert _choose("T2", intensities=INTENSITIES.model_copy(update=found)).value.window is None


def test_the_name_of_clipped_channels_is_that_which_is_examined_so() -> None:
    assert _choose(CT_NAME).value.window is not None


def test_other_channels_need_no_foreground() -> None:
    assert _choose("T2", intensities=None).value.window is None


@pytest.mark.parametrize(
    ("name", "relative_size", "inside", "words"),
    [
        ("T2", 0.7499, True, "inside the nonzero region only: the median crop keeps 74.99 % of the voxels, below 75 %"),
        ("T2", 0.75, False, "with all voxels of the crop: the median crop keeps 75 % of the voxels, not below 75 %"),
        ("T2", 1.0, False, "the median crop keeps 100 % of the voxels"),
        ("rescale_to_0_1", 0.3, False, "the name 'rescale_to_0_1' asks for it"),
        ("noNorm", 0.3, False, "the name 'noNorm' asks for it"),
    ],
)
def test_only_z_scores_are_kept_inside_a_small_nonzero_region(name, relative_size, inside, words) -> None:
    decision = _choose(name, relative_size=relative_size)
    assert decision.value.inside_nonzero_only is inside
    assert words in decision.because


def _choose(name, *, intensities=INTENSITIES, relative_size=1.0):
    channel = ChannelFingerprint(name=name, foreground=intensities)
    return choose_normalization(channel, median_relative_size_after_cropping=relative_size)
