"""A run whose configurations are stages of each other."""

import numpy as np
import pytest
import torch
from builders.labels import build_plain_labels
from builders.plans import build_configuration, build_plan
from builders.preprocessing import preprocess_training_case
from builders.threads import use_one_thread
from safetensors.torch import save_file

from autoseg.dataset.folds import Fold, Splits
from autoseg.document import write_document
from autoseg.geometry import Grid
from autoseg.networks import NETWORK_PREFIX, build_network
from autoseg.preprocessing.cache import write_case
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.run_folder import RunFolder, make_folder
from autoseg.volume_io import write_label_map
from autoseg.workflows.plan.preprocessing import extract_recipe

FIRST, SECOND, THIRD = "3d_lowres", "3d_cascade_fullres", "third"
CASES = ("a", "b", "c")
GRID = Grid(shape_voxels=(10, 12, 8), spacing_mm=(1.0, 1.0, 1.0))
LABEL_COUNT = 4


_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def make_configuration(spacing, *, channels=1, **changes):
    network = {"input_channels": channels, "output_channels": LABEL_COUNT, "features_per_stage": (2, 2)}
    return build_configuration((8, 8, 8), spacing_mm=(spacing,) * 3, network=network, **changes)


def build_chain():
    """Plans three stages, one before the other."""
    configurations = {
        THIRD: make_configuration(1.0, channels=LABEL_COUNT, previous=SECOND),
        SECOND: make_configuration(1.0, channels=LABEL_COUNT, previous=FIRST),
        "3d_fullres": make_configuration(1.0),
        FIRST: make_configuration(2.0, data_of=FIRST),
    }
    return build_plan(configurations, orientation=None, labels=build_plain_labels(LABEL_COUNT - 1))


@pytest.fixture
def describe_plan():
    """The JSON of a plan with three stages, to be changed."""
    return lambda: build_chain().model_dump(mode="json")


@pytest.fixture
def plan():
    return build_chain()


@pytest.fixture
def grid():
    """Of every case."""
    return GRID


@pytest.fixture
def splits():
    """Fold "0" holds b out, "1" c and "2" a."""
    folds = (Fold(training=tuple(c for c in CASES if c != case), validation=(case,)) for case in ("b", "c", "a"))
    return Splits(folds=tuple(folds))


@pytest.fixture
def run(tmp_path, plan, splits):
    """Three preprocessed cases, nothing trained."""
    run = RunFolder(tmp_path / "run")
    write_document(run.plan, plan)
    write_document(run.splits, splits)
    make_folder(run.references)
    for index, case in enumerate(CASES):
        image = np.random.default_rng(index).normal(1, 0.1, (1, *GRID.shape_voxels)).astype(np.float32)
        label_map = np.zeros(GRID.shape_voxels, np.int16)
        label_map[2:5, 3:8, 1:6] = 1
        write_label_map(run.references / f"{case}.nii.gz", label_map, grid=GRID, like=None)
        for name in (FIRST, "3d_fullres"):
            done = preprocess_training_case(image, label_map, GRID, plan, configuration=name)
            locations = find_class_locations(done.label_map, plan.labels)
            write_case(run.preprocessed(name), case, done, locations=locations, patch_voxels=(8, 8, 8))
            write_document(run.recipe(name), extract_recipe(plan, name))
    return run


@pytest.fixture
def train(run):
    """Writes a trained network that gives one label everywhere, or with `is_random` whatever its weights lead to."""

    def write(plan, configuration, fold, *, label=0, is_random=False):
        folder = run.fold(configuration, fold)
        generator = torch.Generator().manual_seed(int(fold))
        network = build_network(plan.configurations[configuration].network, generator)
        write_document(folder.plan, plan)
        weights = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
        for name, tensor in weights.items():
            if tensor.shape[:1] == (LABEL_COUNT,) and not is_random:  # the layers that give logits
                tensor.zero_()
                if name.endswith("bias"):
                    tensor[label] = 1
        save_file(weights, folder.final_checkpoint)

    return write
