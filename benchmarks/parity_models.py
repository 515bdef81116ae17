"""The peer's side of the parity benchmark: run by the Python in which nnU-Net is installed, never imported by autoseg.

    PEER/bin/python parity_models.py kinds
    PEER/bin/python parity_models.py make FOLDER KIND ...    images, models, predictions in FOLDER/0, FOLDER/1, ...
    PEER/bin/python parity_models.py predict JOBS            a JSON file with a list of jobs, see `predict`

The variables that name nnU-Net's folders must be set, to anything.

The models are small but of nnU-Net's making: its trainer class builds and saves them, its preprocessor prepares the
images. They are trained for some iterations on synthetic bodies with two organs, because an untrained network decides
nowhere clearly: half floats, in which nnU-Net adds up its windows, would then decide instead. Every image is predicted
a second time with these sums in single precision and nothing else changed, which tells rounding from a difference.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import SimpleITK
import torch

ITERATIONS = 500
FOREGROUND_SHARE = 0.67
IMAGES = 2
PLANS_NAME = "nnUNetPlans"
REGIONS = {"background": 0, "both": [1, 2], "small": 2, "ignore": 3}
LABELS = {"background": 0, "large": 1, "small": 2}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of model; lengths in array axes z, y, x, all else in plan axes."""

    configurations: dict[str, dict[str, Any]]
    image_shape: tuple[int, int, int]
    image_spacing: tuple[float, float, float]
    labels: dict[str, Any]
    channels: tuple[str, ...] = ("MR",)
    transpose: tuple[int, int, int] = (0, 1, 2)
    folds: tuple[str, ...] = ("0",)
    is_old: bool = False
    mirror: bool = True


def configuration(
    patch: tuple[int, ...], spacing: tuple[float, ...], strides: list[tuple[int, ...]], **more: Any
) -> dict[str, Any]:
    """A configuration of plans.json."""
    dimensions, stages = len(patch), len(strides)
    function = "resample_data_or_seg_to_shape"
    arguments = {"order_z": 0, "force_separate_z": None}
    residual = more.pop("residual", False)
    kernels = [
        [1 if more.get("flat") and stage == 0 and axis == 0 else 3 for axis in range(dimensions)]
        for stage in range(stages)
    ]
    more.pop("flat", None)
    blocks = [1, 2, 2, 2][:stages] if residual else [2] * stages
    return {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": list(patch),
        "median_image_size_in_voxels": list(patch), "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": function, "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **arguments},
        "resampling_fn_seg": function, "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **arguments},
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **arguments},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet."
            + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
            "arch_kwargs": {
                "n_stages": stages, "features_per_stage": [min(6 * 2**stage, 16) for stage in range(stages)],
                "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d", "kernel_sizes": kernels,
                "strides": [list(stride) for stride in strides],
                "n_blocks_per_stage" if residual else "n_conv_per_stage": blocks,
                "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1), "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True, **more,
    }  # fmt: skip


HALVED_3D = [(1, 1, 1), (2, 2, 2), (2, 2, 2)]
FULL_3D = configuration((32, 32, 32), (1.2, 1.2, 1.2), HALVED_3D)
KINDS = {
    "2d": Kind(
        configurations={"2d": configuration((48, 40), (1.1, 0.9), [(1, 1), (2, 2), (2, 2)])},
        image_shape=(16, 72, 68), image_spacing=(3.0, 1.0, 1.0), labels=LABELS,
    ),
    "3d": Kind(
        configurations={"3d_fullres": {**FULL_3D, "use_mask_for_norm": [True]}},
        image_shape=(56, 60, 68), image_spacing=(1.3, 1.0, 1.1), labels=LABELS,
    ),
    "3d, two channels, plans of v2.0": Kind(
        configurations={"3d_fullres": {
            **FULL_3D, "normalization_schemes": ["ZScoreNormalization", "RescaleTo01Normalization"],
            "use_mask_for_norm": [False, False],
        }},
        image_shape=(56, 60, 52), image_spacing=(1.2, 1.2, 1.2), labels=LABELS, channels=("T1", "rescale_to_0_1"),
        is_old=True,
    ),
    "residual encoder, no mirroring": Kind(
        configurations={
            "3d_fullres": configuration((32, 32, 32), (1.2, 1.2, 1.2), [*HALVED_3D, (1, 2, 2)], residual=True),
        },
        image_shape=(56, 60, 68), image_spacing=(1.0, 1.0, 1.0), labels=LABELS, mirror=False,
    ),
    "regions and ignore label": Kind(
        configurations={"3d_fullres": FULL_3D},
        image_shape=(56, 60, 68), image_spacing=(1.2, 1.0, 1.0), labels=REGIONS,
    ),
    "two folds": Kind(
        configurations={"3d_fullres": FULL_3D},
        image_shape=(56, 60, 68), image_spacing=(1.2, 1.0, 1.0), labels=LABELS, folds=("0", "1"),
    ),
    "anisotropic CT, transposed": Kind(
        configurations={"3d_fullres": {
            **configuration((10, 48, 48), (5.0, 0.9, 0.9), [(1, 1, 1), (1, 2, 2), (2, 2, 2)], flat=True),
            "normalization_schemes": ["CTNormalization"],
        }},
        image_shape=(88, 80, 20), image_spacing=(0.8, 0.8, 6.0), labels=LABELS, channels=("CT",), transpose=(2, 0, 1),
    ),
    "cascade": Kind(
        configurations={
            "3d_lowres": {
                **configuration((24, 24, 24), (1.9, 1.9, 1.9), HALVED_3D), "next_stage": ["3d_cascade_fullres"],
            },
            "3d_fullres": FULL_3D,
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        image_shape=(56, 60, 68), image_spacing=(1.2, 1.0, 1.0), labels=LABELS,
    ),
}  # fmt: skip


def build_plans(kind: Kind) -> dict[str, Any]:
    """plans.json of a kind."""
    backward = [kind.transpose.index(axis) for axis in range(3)]
    intensities = {"mean": 60.0, "std": 45.0, "percentile_00_5": -40.0, "percentile_99_5": 170.0}
    return {
        "dataset_name": "Dataset001_Parity", "plans_name": PLANS_NAME, "image_reader_writer": "SimpleITKIO",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0], "original_median_shape_after_transp": [40, 40, 40],
        "transpose_forward": list(kind.transpose), "transpose_backward": backward,
        "configurations": {name: dict(part) for name, part in kind.configurations.items()},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): {**intensities, "max": 200.0, "min": -90.0, "median": 60.0}
            for index in range(len(kind.channels))
        },
    }  # fmt: skip


def age(plans: dict[str, Any]) -> dict[str, Any]:
    """The same plans in the form of release 2.0."""
    for part in plans["configurations"].values():
        arguments = part.pop("architecture")["arch_kwargs"]
        part |= {
            "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": arguments["features_per_stage"][0],
            "unet_max_num_features": arguments["features_per_stage"][-1],
            "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
            "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
            "pool_op_kernel_sizes": arguments["strides"], "conv_kernel_sizes": arguments["kernel_sizes"],
            "num_pool_per_axis": [2, 2, 2],
        }  # fmt: skip
    return plans


def build_dataset(kind: Kind) -> dict[str, Any]:
    """dataset.json of a kind."""
    content = {
        "channel_names": {str(index): name for index, name in enumerate(kind.channels)}, "labels": kind.labels,
        "numTraining": IMAGES, "file_ending": ".nii.gz",
    }  # fmt: skip
    return content | ({"regions_class_order": [1, 2]} if kind.labels is REGIONS else {})


def make_case(kind: Kind, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A body in air with a large and a small organ; noise, and channels of different contrast."""
    random = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, extent) for extent in kind.image_shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")

    def ball(centre: np.ndarray, radius: float) -> np.ndarray:
        return (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2

    labels = np.zeros(kind.image_shape, np.uint8)
    labels[ball(random.uniform(-0.25, 0.1, 3), random.uniform(0.35, 0.5))] = 1
    labels[ball(random.uniform(0.25, 0.45, 3), random.uniform(0.28, 0.34))] = 2
    body = ball(np.zeros(3), 0.95)
    channels = []
    for index in range(len(kind.channels)):
        levels = np.array([10.0, 80.0 + 20 * index, 140.0 - 90 * index])
        image = levels[labels] + random.normal(0, 8, kind.image_shape)
        channels.append(np.where(body, image, 0))
    return np.stack(channels).astype(np.float32), labels


def write_cases(kind: Kind, folder: Path) -> None:
    """Images in `images`, label maps in `labels`."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(IMAGES):
        image, labels = make_case(kind, index)
        for channel, array in enumerate(image):
            save(folder / "images" / f"case{index}_{channel:04d}.nii.gz", array, kind.image_spacing)
        save(folder / "labels" / f"case{index}.nii.gz", labels, kind.image_spacing)


def save(path: Path, array: np.ndarray, spacing: tuple[float, float, float]) -> None:
    """With a direction that is none of the usual ones: nothing may be reoriented."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    image.SetOrigin((10.0, -20.0, 30.0))
    SimpleITK.WriteImage(image, str(path))


def train_model(kind: Kind, name: str, fold: str, folder: Path) -> Path:
    """Trains one fold and saves it where nnU-Net would; returns the model's folder."""
    from batchgenerators.utilities.file_and_folder_operations import save_json
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )

    torch.manual_seed(int(fold) + len(name))
    kind_of_trainer = nnUNetTrainer if kind.mirror else nnUNetTrainerNoMirroring
    plans, dataset = build_plans(kind), build_dataset(kind)
    if kind.is_old:
        plans = age(plans)
    model = folder / f"{kind_of_trainer.__name__}__{PLANS_NAME}__{name}"
    (model / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
    save_json(plans, str(model / "plans.json"), sort_keys=False)
    save_json(dataset, str(model / "dataset.json"), sort_keys=False)
    device = torch.device("cpu")
    trainer = kind_of_trainer({**plans, "continue_training": False}, name, int(fold), dataset, device)
    pretend_to_have_preprocessed(Path(trainer.preprocessed_dataset_folder))
    trainer.initialize()
    # Rotations do not matter here, but this method also says which axes prediction may mirror.
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    optimize(trainer, read_arrays(trainer, folder.parent, is_cascade="cascade" in name))
    trainer.save_checkpoint(str(model / f"fold_{fold}" / "checkpoint_final.pth"))
    return model


def pretend_to_have_preprocessed(folder: Path) -> None:
    """The trainer looks which format its data has, which it is not given here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.b2nd").touch()


def read_arrays(trainer: Any, folder: Path, *, is_cascade: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Preprocessed images and labels, through nnU-Net; in a cascade the true labels stand in for the first stage."""
    arrays = []
    preprocessor = trainer.configuration_manager.preprocessor_class(verbose=False)
    for label_file in sorted((folder / "labels").iterdir()):
        stem = label_file.name.removesuffix(".nii.gz")
        files = [str(path) for path in sorted((folder / "images").glob(f"{stem}_*"))]
        image, labels, _ = preprocessor.run_case(
            files, str(label_file), trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
        )
        image, labels = torch.as_tensor(np.array(image)), torch.as_tensor(np.array(labels)[0]).long().clamp(min=0)
        if is_cascade:
            masks = [(labels == value)[None].float() for value in (1, 2)]
            image = torch.cat([image, *masks])
        arrays.append((image, labels))
    return arrays


def optimize(trainer: Any, arrays: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Random patches, cross-entropy at the full resolution."""
    network = trainer.network
    network.decoder.deep_supervision = False
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    patch = trainer.configuration_manager.patch_size
    random = np.random.default_rng(0)
    for _ in range(ITERATIONS):
        images, labels = zip(
            *(cut(*arrays[random.integers(len(arrays))], patch, random) for _ in range(2)), strict=True
        )
        output, target = network(torch.stack(images)), torch.stack(labels)
        if trainer.label_manager.has_regions:
            wanted = torch.stack([target > 0, target == 2], dim=1).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(output, wanted)
        else:
            loss = torch.nn.functional.cross_entropy(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{trainer.configuration_name}: loss {float(loss.detach()):.3f} after {ITERATIONS} iterations")


def cut(image: torch.Tensor, labels: torch.Tensor, patch: list[int], random: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A random patch, padded with zeros where the image is smaller; one slice for a 2D patch.

    Most are around a voxel of one of the organs, which are a small part of the image.
    """
    organ = (labels == random.integers(1, 3)).nonzero()
    centre = organ[random.integers(len(organ))].tolist() if len(organ) else [0, 0, 0]
    if random.uniform() > FOREGROUND_SHARE:
        centre = [int(random.integers(extent)) for extent in labels.shape]
    if len(patch) == 2:
        image, labels, centre = image[:, centre[0]], labels[centre[0]], centre[1:]
    missing = [max(0, wanted - extent) for wanted, extent in zip(patch, labels.shape, strict=True)]
    padding = [count for extent in reversed(missing) for count in (0, extent)]
    image, labels = torch.nn.functional.pad(image, padding), torch.nn.functional.pad(labels, padding)
    starts = [
        min(max(0, middle - wanted // 2), extent - wanted)
        for middle, extent, wanted in zip(centre, labels.shape, patch, strict=True)
    ]
    inside = tuple(slice(start, start + wanted) for start, wanted in zip(starts, patch, strict=True))
    return image[(slice(None), *inside)], labels[inside]


def make(folder: Path, name: str) -> None:
    """Images, models and predictions of one kind."""
    kind = KINDS[name]
    write_cases(kind, folder)
    previous: dict[str, str] = {}
    for configuration_name in kind.configurations:
        if configuration_name == "3d_fullres" and len(kind.configurations) > 1:
            continue  # a cascade needs its description, not a model
        for fold in kind.folds:
            root = train_model(kind, configuration_name, fold, folder / "models")
        for sums in ("theirs", "single"):
            out = str(folder / f"{sums}_{configuration_name}")
            predict(
                model=str(root),
                images=str(folder / "images"),
                out=out,
                folds=kind.folds,
                previous=previous.get(sums),
                is_single=sums == "single",
            )
            previous[sums] = out


@contextmanager
def set_precision_of_sums(*, is_single: bool) -> Iterator[None]:
    """Has nnU-Net sum up logits and weights of windows as single instead of half floats."""
    from nnunetv2.inference import predict_from_raw_data as module

    own = module.torch, module.compute_gaussian
    if is_single:
        module.torch = SimpleNamespace(**{**vars(torch), "half": torch.float32})
        module.compute_gaussian = lru_cache(partial(module.compute_gaussian, dtype=torch.float32))
    try:
        yield
    finally:
        module.torch, module.compute_gaussian = own


def predict(
    *, model: str, images: str, out: str, folds: Sequence[str], previous: str | None, is_single: bool = False
) -> None:
    """nnU-Net's label maps of a folder, with its defaults: step one half, Gaussian, mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    Path(out).mkdir(parents=True, exist_ok=True)
    predictor = nnUNetPredictor(
        perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False, verbose=False
    )
    names = [fold if fold == "all" else int(fold) for fold in folds]
    predictor.initialize_from_trained_model_folder(model, names, "checkpoint_final.pth")
    with set_precision_of_sums(is_single=is_single):
        predictor.predict_from_files_sequential(images, out, folder_with_segs_from_prev_stage=previous)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    torch.set_num_threads(1)  # small tensors gain nothing from more
    if command == "kinds":
        print("\n".join(KINDS))
    elif command == "make":
        for index, name in enumerate(arguments[1:]):
            make(Path(arguments[0]) / str(index), name)
    else:
        for job in json.loads(Path(arguments[0]).read_text()):
            predict(**job)
