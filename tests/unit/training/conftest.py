import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from builders.labels import build_labels, build_plain_labels
from builders.plans import build_channels, build_configuration, build_transforms
from builders.threads import use_one_thread

from autoseg.dataset.folds import Fold
from autoseg.plan import MasksOfPreviousStage
from autoseg.preprocessing.cache import open_case, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.stages.masks import MaskInput
from autoseg.stages.stored_maps import PredictionSource, write_stage_map
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey, derive_seeds
from autoseg.training.data.training_data import TrainingData

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")


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
    """Lists transforms in the order of the arguments."""
    return build_transforms


@pytest.fixture
def plan_configuration():
    """Makes the plan of a tiny configuration, two axes by default."""

    def make(*, dimensions=2, stages=3, transforms=None, network=(), **training):
        transforms = build_transforms(**LIVELY) if transforms is None else transforms
        return build_configuration(
            (16,) * dimensions,
            median_shape_voxels=(24.0,) * dimensions,
            previous="3d_lowres" if any(part.needs_previous_stage for part in transforms) else None,
            data_of="tiny",
            network={"output_channels": 2, "features_per_stage": (4, 6, 8, 8)[:stages]} | dict(network),
            training=TRAINING | {"transforms": transforms} | training,
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

TRAINING = {"epochs": 4, "iterations_per_epoch": 3, "validation_iterations_per_epoch": 2, "batch_dice": True}


@pytest.fixture
def labels():
    """Background and one lesion."""
    return build_labels({"lesion": (1,)})


@pytest.fixture
def channels():
    """One channel that is normalized everywhere."""
    return build_channels("zscore", name="ct")


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
def make_source(data_folder, channels, fold):
    """Builds what makes batches as worker processes do, or on a device from a place of the cases."""

    def make(plan, where=None, previous=None):
        source = build_batch_source(plan, channels, data_folder=data_folder, fold=fold, seed=7, previous=previous)
        if where is None:
            return source
        placement = DataPlacement(where=where, because="")
        return build_device_batch_source(source, plan, channels, device=torch.device("cpu"), placement=placement)

    return make


@pytest.fixture
def training_data(labels, channels, data_folder, fold):
    """What a training is given beside its plan."""
    return TrainingData(labels=labels, channels=channels, folder=data_folder, fold=fold)


@pytest.fixture
def mask_input():
    """Masks of the labels 1 to a number."""

    def build(count):
        return MaskInput(MasksOfPreviousStage(configuration="3d_lowres"), build_plain_labels(count))

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
