import numpy as np
import pytest
from builders.geometries import build_geometry
from builders.threads import use_one_thread

from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan import AugmentationPlan, ChannelPlan, ConfigurationPlan, NetworkPlan, ResamplingPlan, TrainingPlan
from autoseg.preprocessing.cache import open_case, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.preprocessing.previous_stage import PredictionSource, PreviousStage, write_prediction
from autoseg.training.folds import Fold

STILL = {
    "rotation_probability": 0.0,
    "rotation_limit_degrees": 30.0,
    "in_plane_only": False,
    "scaling_probability": 0.0,
    "scaling_range": (0.7, 1.4),
    "noise_probability": 0.0,
    "noise_std_range": (0.0, 0.1),
    "blur_probability": 0.0,
    "blur_channel_probability": 0.5,
    "blur_sigma_range_voxels": (0.5, 1.0),
    "brightness_probability": 0.0,
    "brightness_range": (0.75, 1.25),
    "contrast_probability": 0.0,
    "contrast_range": (0.75, 1.25),
    "low_resolution_probability": 0.0,
    "low_resolution_channel_probability": 0.5,
    "low_resolution_range": (0.5, 1.0),
    "inverted_gamma_probability": 0.0,
    "gamma_probability": 0.0,
    "gamma_range": (0.7, 1.5),
    "mirror_axes": (),
}


_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture
def plan_augmentation():
    """Makes a plan of an augmentation that does nothing but what the test asks for."""
    return lambda **wanted: AugmentationPlan.model_validate(STILL | wanted)


@pytest.fixture
def plan_configuration(plan_augmentation):
    """Makes the plan of a tiny configuration, two axes by default."""

    def make(*, dimensions=2, stages=3, augmentation=None, network=(), **training):
        patch = (16,) * dimensions
        return ConfigurationPlan(
            dimensions=dimensions,
            spacing_mm=(1.0,) * dimensions,
            median_shape_voxels=(24.0,) * dimensions,
            patch_voxels=patch,
            previous_stage=None,
            data_of="tiny",
            resampling=ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3.0),
            network=make_network_plan(dimensions, stages, dict(network)),
            training=TrainingPlan.model_validate(
                TRAINING | {"augmentation": augmentation or plan_augmentation(**LIVELY)} | training
            ),
        )

    return make


# With a fixed strength of the noise nothing is drawn from `random`, which the type checks of these tests draw from, too
# (beartype looks at random items of containers), but not those of worker processes.
LIVELY = {
    "rotation_probability": 0.5,
    "scaling_probability": 0.5,
    "noise_probability": 0.5,
    "noise_std_range": (0.1, 0.1),
    "gamma_probability": 0.5,
    "mirror_axes": (0, 1),
}

TRAINING = {
    "epochs": 4,
    "iterations_per_epoch": 3,
    "validation_iterations_per_epoch": 2,
    "batch_size": 2,
    "foreground_fraction": 0.33,
    "loss": "dice_cross_entropy",
    "batch_dice": True,
    "optimizer": "sgd_nesterov",
    "initial_learning_rate": 0.01,
    "momentum": 0.99,
    "weight_decay": 3e-5,
    "schedule": "polynomial",
    "schedule_exponent": 0.9,
    "gradient_norm_limit": 12.0,
}


def make_network_plan(dimensions, stages, changes):
    values = {
        "architecture": "plain_unet",
        "dimensions": dimensions,
        "input_channels": 1,
        "output_channels": 2,
        "features_per_stage": (4, 6, 8, 8)[:stages],
        "kernel_sizes": ((3,) * dimensions,) * stages,
        "strides": ((1,) * dimensions, *((2,) * dimensions,) * (stages - 1)),
        "blocks_per_stage": (1,) * stages,
        "convolutions_per_decoder_stage": (1,) * (stages - 1),
        "deep_supervision": True,
    }
    return NetworkPlan.model_validate(values | changes)


@pytest.fixture
def labels():
    """Background and one lesion."""
    lesion = LabelClass(name="lesion", values=(1,))
    return LabelScheme(classes=(lesion,), ignore_value=None, region_write_values=None, declared_count=2)


@pytest.fixture
def channels():
    """One channel that is normalized everywhere."""
    return (ChannelPlan(name="ct", normalization="zscore", inside_nonzero_only=False, window=None),)


@pytest.fixture
def data_folder(tmp_path):
    """Four preprocessed cases: a bright box in noise."""
    for index in range(4):
        generator = np.random.default_rng(index)
        label_map = np.zeros((6, 24, 26), dtype=np.int16)
        z, y, x = generator.integers(0, (3, 14, 14))
        label_map[z : z + 3, y : y + 8, x : x + 8] = 1
        image = (generator.normal(size=(1, 6, 24, 26)) + 2 * label_map).astype(np.float32)
        case = PreprocessedCase(image=image, label_map=label_map, geometry=build_geometry(label_map.shape))
        lesion = np.argwhere(label_map == 1).astype(np.int32)
        locations = ClassLocations(coordinates=lesion, class_ranges=((0, len(lesion)),), annotated_range=None)
        write_case(tmp_path / "data", f"case_{index}", case, locations=locations, patch_voxels=(1, 16, 16))
    return tmp_path / "data"


@pytest.fixture
def previous(tmp_path, data_folder):
    """What a first stage predicts for the four cases: their lesion, moved by two voxels."""
    for index in range(4):
        case = open_case(data_folder, f"case_{index}")
        write_prediction(
            tmp_path / "previous",
            case.name,
            np.roll(case.label_map[:], 2, axis=1),
            source=PredictionSource(configuration="3d_lowres", fold="0", weights_sha256="0"),
            geometry=case.geometry,
            patch_voxels=(1, 16, 16),
        )
    return PreviousStage(folder=tmp_path / "previous", foreground_labels=(1,), digest="first")


@pytest.fixture
def fold():
    """Three cases train, one is held out."""
    return Fold(training=("case_0", "case_1", "case_2"), validation=("case_3",))
