import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from builders.threads import use_one_thread

from autoseg.dataset.folds import Fold
from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan import (
    TRANSFORM_PLANS,
    ChannelPlan,
    ConfigurationPlan,
    MasksOfPreviousStage,
    PlainUNetPlan,
    ResamplingPlan,
    TrainingPlan,
)
from autoseg.preprocessing.cache import open_case, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.stages.masks import MaskInput
from autoseg.stages.stored_maps import PredictionSource, write_stage_map
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.data.randomness import BatchKey, derive_seeds
from autoseg.training.data.training_data import TrainingData

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")

# With these values a transform always happens, but for rotation and scaling.
TRANSFORMS = {
    "spatial": {
        "rotation_probability": 0.0,
        "rotation_limit_degrees": 30.0,
        "in_plane_only": False,
        "scaling_probability": 0.0,
        "scaling_range": (0.7, 1.4),
    },
    "noise": {"probability": 1.0, "std_range": (0.0, 0.1)},
    "blur": {"probability": 1.0, "channel_probability": 0.5, "sigma_range_voxels": (0.5, 1.0)},
    "brightness": {"probability": 1.0, "factor_range": (0.75, 1.25)},
    "contrast": {"probability": 1.0, "factor_range": (0.75, 1.25)},
    "low_resolution": {
        "probability": 1.0,
        "channel_probability": 0.5,
        "zoom_range": (0.5, 1.0),
        "in_plane_only": False,
    },
    "gamma": {"probability": 1.0, "inverted": False, "exponent_range": (0.7, 1.5)},
    "mirror": {"axes": (0, 1)},
    "mask_morphology": {"probability": 1.0, "label_probability": 0.5, "radius_range_voxels": (1.0, 8.0)},
    "mask_component_removal": {"probability": 1.0, "label_probability": 0.5, "limit_fraction": 0.15},
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])])
def device(request):
    """Every test that asks for it runs on the CPU and, where there is one, on a GPU."""
    return torch.device(request.param)


@pytest.fixture
def list_seeds():
    """Seeds of the first samples of a batch."""

    def make(count, *, first=0, iteration=0, seed=0):
        key = BatchKey(stream="training", epoch=0, iteration=iteration)
        return [derive_seeds(seed, key, index) for index in range(first, first + count)]

    return make


@pytest.fixture
def draw_image():
    """Smooth random images with channels of different means and spreads."""

    def make(shape=(8, 10, 12), *, batch=3, channels=2, seed=1):
        generator = np.random.default_rng(seed)
        image = generator.normal(size=(batch, channels, *shape))
        spread = np.arange(1, channels + 1).reshape(1, -1, *(1,) * len(shape))
        return (image * spread + spread).astype(np.float32)

    return make


_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture
def plan_transforms():
    """Lists transforms in the order of the arguments: names with what differs from the values above, or whole parts."""

    def make(*parts, **named):
        contents = [*parts, *({"name": name} | values for name, values in named.items())]
        return tuple(
            TRANSFORM_PLANS[content["name"]].model_validate(TRANSFORMS[content["name"]] | content)
            for content in contents
        )

    return make


@pytest.fixture
def plan_configuration(plan_transforms):
    """Makes the plan of a tiny configuration, two axes by default."""

    def make(*, dimensions=2, stages=3, transforms=None, network=(), **training):
        patch = (16,) * dimensions
        transforms = plan_transforms(**LIVELY) if transforms is None else transforms
        return ConfigurationPlan(
            dimensions=dimensions,
            spacing_mm=(1.0,) * dimensions,
            median_shape_voxels=(24.0,) * dimensions,
            patch_voxels=patch,
            previous_stage="3d_lowres" if any(part.needs_previous_stage for part in transforms) else None,
            data_of="tiny",
            resampling=ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3.0),
            network=make_network_plan(dimensions, stages, dict(network)),
            training=TrainingPlan.model_validate(TRAINING | {"transforms": transforms} | training),
        )

    return make


# With a fixed strength of the noise nothing is drawn from `random`, which the type checks of these tests draw from, too
# (beartype looks at random items of containers), but not those of worker processes.
LIVELY = {
    "spatial": {"rotation_probability": 0.5, "scaling_probability": 0.5},
    "noise": {"probability": 0.5, "std_range": (0.1, 0.1)},
    "gamma": {"probability": 0.5},
    "mirror": {"axes": (0, 1)},
}

TRAINING = {
    "epochs": 4,
    "iterations_per_epoch": 3,
    "validation_iterations_per_epoch": 2,
    "budget_seconds": None,
    "sufficient_iterations": None,
    "batch_size": 2,
    "foreground_fraction": 0.33,
    "foreground_placement": "centred",
    "foreground_choice": "class",
    "losses": (
        {"name": "dice", "weight": 1.0, "batch_dice": True},
        {"name": "cross_entropy", "weight": 1.0},
    ),
    "objective": {"name": "segmentation"},
    "optimizer": "sgd_nesterov",
    "initial_learning_rate": 0.01,
    "momentum": 0.99,
    "second_moment_decay": 0.999,
    "weight_decay": 3e-5,
    "schedule": "polynomial",
    "schedule_exponent": 0.9,
    "warmup_iterations": 0,
    "weight_average_decay": 0.0,
    "gradient_norm_limit": 12.0,
}


def make_network_plan(dimensions, stages, changes):
    values = {
        "family": "plain_unet",
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
    return PlainUNetPlan.model_validate(values | changes)


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
def training_data(labels, channels, data_folder, fold):
    """What a training is given beside its plan."""
    return TrainingData(labels=labels, channels=channels, folder=data_folder, fold=fold)


@pytest.fixture
def mask_input():
    """Masks of the labels 1 to a number."""

    def build(count):
        classes = tuple(LabelClass(name=str(value), values=(value,)) for value in range(1, count + 1))
        labels = LabelScheme(classes=classes, ignore_value=None, region_write_values=None, declared_count=count + 1)
        return MaskInput(MasksOfPreviousStage(configuration="3d_lowres"), labels)

    return build


@pytest.fixture
def previous(tmp_path, data_folder, mask_input):
    """What a first stage predicts for the four cases: their lesion, moved by two voxels."""
    for index in range(4):
        case = open_case(data_folder, f"case_{index}")
        write_stage_map(
            tmp_path / "previous",
            case.name,
            np.roll(case.label_map[:], 2, axis=1),
            source=PredictionSource(configuration="3d_lowres", fold="0", weights_sha256="0"),
            geometry=case.geometry,
            patch_voxels=(1, 16, 16),
        )
    return StoredStageInput(folder=tmp_path / "previous", input=mask_input(1), digest="first")


@pytest.fixture
def fold():
    """Three cases train, one is held out."""
    return Fold(training=("case_0", "case_1", "case_2"), validation=("case_3",))
