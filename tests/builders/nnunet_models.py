"""Model folders as nnU-Net writes them, made without nnU-Net: networks with its module names, and its files."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SPLINES = "resample_data_or_seg_to_shape"
LABELS = {"background": 0, "liver": 1, "tumour": 2}
CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOLS = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class Unit(nn.Module):
    """Registers its parts twice, as nnU-Net's units do."""

    def __init__(
        self, below: int, above: int, kernel: Any, *, stride: Any, bias: bool = True, active: bool = True
    ) -> None:
        super().__init__()
        dimensions = len(kernel)
        padding = [(extent - 1) // 2 for extent in kernel]
        self.conv = CONVOLUTIONS[dimensions](below, above, kernel, stride, padding, bias=bias)
        self.norm = NORMS[dimensions](above, eps=1e-5, affine=True)
        parts: list[nn.Module] = [self.conv, self.norm]
        if active:
            self.nonlin = nn.LeakyReLU(inplace=True)
            parts.append(self.nonlin)
        self.all_modules = nn.Sequential(*parts)

    def forward(self, features: Tensor) -> Tensor:
        return self.all_modules(features)


class Stack(nn.Module):
    def __init__(self, below: int, above: int, kernel: Any, *, stride: Any, count: int) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        first = Unit(below, above, kernel, stride=stride)
        self.convs = nn.Sequential(first, *(Unit(above, above, kernel, stride=ones) for _ in range(count - 1)))

    def forward(self, features: Tensor) -> Tensor:
        return self.convs(features)


class Block(nn.Module):
    def __init__(self, below: int, above: int, kernel: Any, *, stride: Any) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        self.conv1 = Unit(below, above, kernel, stride=stride)
        self.conv2 = Unit(above, above, kernel, stride=ones, active=False)
        self.nonlin2 = nn.LeakyReLU()
        skip: list[nn.Module] = []
        if any(step != 1 for step in stride):
            skip.append(POOLS[len(kernel)](stride, stride))
        if below != above:
            skip.append(Unit(below, above, ones, stride=ones, bias=False, active=False))
        self.skip = nn.Sequential(*skip) if skip else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.nonlin2(self.conv2(self.conv1(features)) + self.skip(features))


class Blocks(nn.Module):
    def __init__(self, below: int, above: int, kernel: Any, *, stride: Any, count: int) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        first = Block(below, above, kernel, stride=stride)
        self.blocks = nn.Sequential(first, *(Block(above, above, kernel, stride=ones) for _ in range(count - 1)))

    def forward(self, features: Tensor) -> Tensor:
        return self.blocks(features)


class Encoder(nn.Module):
    def __init__(self, arguments: dict[str, Any], channels: int) -> None:
        super().__init__()
        features, kernels, strides = (arguments[key] for key in ("features_per_stage", "kernel_sizes", "strides"))
        is_residual = "n_blocks_per_stage" in arguments
        if is_residual:
            ones = [1] * len(kernels[0])
            self.stem = Stack(channels, features[0], kernels[0], stride=ones, count=1)
            channels = features[0]
        counts = arguments["n_blocks_per_stage" if is_residual else "n_conv_per_stage"]
        stages: list[nn.Module] = []
        for stage, (below, above) in enumerate(pairwise((channels, *features))):
            options = {"stride": strides[stage], "count": counts[stage]}
            kernel = kernels[stage]
            made = Blocks(below, above, kernel, **options) if is_residual else Stack(below, above, kernel, **options)
            stages.append(made if is_residual else nn.Sequential(made))
        self.stages = nn.Sequential(*stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        if hasattr(self, "stem"):
            image = self.stem(image)
        skips = []
        for stage in self.stages:
            image = stage(image)
            skips.append(image)
        return skips


class Decoder(nn.Module):
    """Counts from the lowest resolution, and registers the encoder a second time."""

    def __init__(self, encoder: Encoder, arguments: dict[str, Any], outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        features, kernels, strides = (arguments[key] for key in ("features_per_stage", "kernel_sizes", "strides"))
        dimensions = len(kernels[0])
        ups, stages, heads = [], [], []
        for step, level in enumerate(range(len(features) - 2, -1, -1)):
            stride = strides[level + 1]
            ups.append(TRANSPOSED[dimensions](features[level + 1], features[level], stride, stride))
            count = arguments["n_conv_per_stage_decoder"][step]
            ones = [1] * dimensions
            stages.append(Stack(2 * features[level], features[level], kernels[level], stride=ones, count=count))
            heads.append(CONVOLUTIONS[dimensions](features[level], outputs, 1))
        self.transpconvs, self.stages, self.seg_layers = nn.ModuleList(ups), nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, skips: list[Tensor]) -> Tensor:
        features = skips[-1]
        for step, (up, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            features = stage(torch.cat((up(features), skips[-2 - step]), 1))
        return self.seg_layers[-1](features)


class ForeignNetwork(nn.Module):
    def __init__(self, arguments: dict[str, Any], channels: int, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(arguments, channels)
        self.decoder = Decoder(self.encoder, arguments, outputs)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image))


def _build_arguments(dimensions: int, *, residual: bool) -> dict[str, Any]:
    """Four stages whose axes are pooled unequally; the last keeps its number of features, as wide networks do."""
    strides = {2: [[1, 1], [2, 2], [1, 2], [2, 2]], 3: [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 1, 2]]}[dimensions]
    flat = [1, 3, 3] if dimensions == 3 else [3, 3]
    return {
        "n_stages": 4,
        "features_per_stage": [4, 6, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [flat, *[[3] * dimensions] * 3],
        "strides": strides,
        "n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 3, 2, 2] if residual else [2, 2, 3, 2],
        "n_conv_per_stage_decoder": [1, 2, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def build_foreign_configuration(dimensions: int = 3, *, residual: bool = False, **changes: Any) -> dict[str, Any]:
    spacing = [2.5, 1.0, 1.25][-dimensions:]
    arguments = {"order_z": 0, "force_separate_z": None}
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "data_identifier": "nnUNetPlans_x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 7,
        "patch_size": [8, 16, 16][-dimensions:],
        "median_image_size_in_voxels": [9.5, 20.0, 21.0][-dimensions:],
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [True],
        "resampling_fn_data": SPLINES,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **arguments},
        "resampling_fn_seg": SPLINES,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **arguments},
        "resampling_fn_probabilities": SPLINES,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **arguments},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": _build_arguments(dimensions, residual=residual),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
        **changes,
    }


def build_foreign_plans(configurations: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "dataset_name": "Dataset001_X",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": configurations or {"3d_fullres": build_foreign_configuration()},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 60.5, "std": 20.25, "percentile_00_5": -30.0, "percentile_99_5": 170.0, "max": 200.0}
        },
        **changes,
    }


def build_foreign_dataset(**changes: Any) -> dict[str, Any]:
    return {
        "channel_names": {"0": "MR"},
        "labels": LABELS,
        "numTraining": 5,
        "file_ending": ".nii.gz",
        **changes,
    }


def _count_outputs(dataset: dict[str, Any]) -> int:
    entries = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    return len(entries) - 1 if any(isinstance(value, list) for value in entries.values()) else len(entries)


def _resolve(plans: dict[str, Any], name: str) -> dict[str, Any]:
    own = plans["configurations"][name]
    return {**(_resolve(plans, own["inherits_from"]) if "inherits_from" in own else {}), **own}


def build_foreign_network(
    plans: dict[str, Any], dataset: dict[str, Any], name: str, *, seed: int = 0
) -> ForeignNetwork:
    part = _resolve(plans, name)
    torch.manual_seed(seed)
    channels = len(dataset["channel_names"]) + (2 if "previous_stage" in part else 0)
    network = ForeignNetwork(part["architecture"]["arch_kwargs"], channels, _count_outputs(dataset))
    for parameter in network.parameters():  # norms too, which start as ones and zeros
        nn.init.normal_(parameter, std=0.3)
    for head in network.decoder.seg_layers:
        nn.init.zeros_(head.bias)  # so that every label wins somewhere
    return network.eval()


def write_foreign_model(
    results: Path,
    *,
    plans: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    configuration: str = "3d_fullres",
    folds: tuple[str, ...] = ("0",),
    trainer: str = "nnUNetTrainer",
    mirror_axes: tuple[int, ...] | None = (0, 1),
    kind: str = "final",
) -> Path:
    """Writes `<trainer>__nnUNetPlans__<configuration>`; fold i has weights of seed i."""
    plans, dataset = plans or build_foreign_plans(), dataset or build_foreign_dataset()
    root = results / f"{trainer}__nnUNetPlans__{configuration}"
    root.mkdir(parents=True, exist_ok=True)
    (root / "plans.json").write_text(json.dumps(plans))
    (root / "dataset.json").write_text(json.dumps(dataset))
    for seed, fold in enumerate(folds):
        network = build_foreign_network(plans, dataset, configuration, seed=seed)
        content = {
            "network_weights": network.state_dict(),
            "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float32(0.5), np.float64(0.75)], "lrs": [0.01]},
            "_best_ema": np.float64(0.25),
            "current_epoch": 1000,
            "init_args": {"plans": plans, "configuration": configuration, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": mirror_axes,
        }
        (root / f"fold_{fold}").mkdir()
        torch.save(content, root / f"fold_{fold}" / f"checkpoint_{kind}.pth")
    return root
