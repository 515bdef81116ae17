"""Times a training step or a prediction of nnU-Net on random data; run by the interpreter of its own environment.

`python peer_gpu.py TASKS.json`: for each task the network, the patch, and what is timed; the last line that it prints
is a list of the seconds, of a task that fails the reason.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn


def main() -> None:
    """Prints the seconds of what the tasks name."""
    torch.backends.cudnn.benchmark = True
    print("\n" + json.dumps([try_task(task) for task in json.loads(Path(sys.argv[1]).read_text())]))


def try_task(task: dict[str, Any]) -> float | str:
    """Times what a task names, or returns why that failed; the memory is then free for the next one."""
    try:
        outcome: float | str = time_task(task)
    except Exception as error:  # the others can be timed
        outcome = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:300]
    gc.collect()
    torch.cuda.empty_cache()
    return outcome


def time_task(task: dict[str, Any]) -> float:
    """Times what a task names."""
    torch.manual_seed(0)
    device = torch.device(task["device"])
    network = build_network(task).to(device)
    measure = time_steps if task["kind"] == "step" else time_prediction
    return measure(network, task, device)


def build_network(task: dict[str, Any]) -> nn.Module:
    """Builds the network as nnU-Net's plans do."""
    dimensions, stages = len(task["patch"]), len(task["features"])
    common = {
        "input_channels": 1,
        "num_classes": task["classes"],
        "n_stages": stages,
        "features_per_stage": task["features"],
        "conv_op": {2: nn.Conv2d, 3: nn.Conv3d}[dimensions],
        "kernel_sizes": [[3] * dimensions] * stages,
        "strides": [[1] * dimensions, *[[2] * dimensions] * (stages - 1)],
        "n_conv_per_stage_decoder": task["decoder"],
        "conv_bias": True,
        "norm_op": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    if task["is_residual"]:
        return ResidualEncoderUNet(n_blocks_per_stage=task["encoder"], **common)
    return PlainConvUNet(n_conv_per_stage=task["encoder"], **common)


def time_steps(network: nn.Module, task: dict[str, Any], device: torch.device) -> float:
    """Times steps of nnU-Net's trainer, which has everything but its data."""
    trainer = object.__new__(nnUNetTrainer)
    trainer.device = device
    trainer.network = torch.compile(network) if task["compiles"] else network
    levels = len(task["features"]) - 1
    weights = np.array([0.5**level for level in range(levels)])
    weights[-1] = 0 if levels > 1 else 1
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        weight_ce=1,
        weight_dice=1,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    trainer.loss = DeepSupervisionWrapper(loss, weights / weights.sum())
    trainer.optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, weight_decay=3e-5, nesterov=True)
    trainer.grad_scaler = torch.amp.GradScaler("cuda") if device.type == "cuda" else None
    shape = (task["batch"], 1, *task["patch"])
    target = torch.randint(task["classes"], shape, device=device).float()
    every = [slice(None, None, 2**level) for level in range(levels)]
    targets = [target[(slice(None), slice(None), *[part] * len(task["patch"]))].contiguous() for part in every]
    batch = {"data": torch.randn(shape, device=device), "target": targets}
    network.train()
    return time_work(lambda: trainer.train_step(batch), device, repetitions=task["steps"])


def time_prediction(network: nn.Module, task: dict[str, Any], device: torch.device) -> float:
    """Times the sliding window of nnU-Net's predictor, without reading and restoring."""
    network.decoder.deep_supervision = False
    predictor = nnUNetPredictor(device=device, use_mirroring=bool(task["mirror_axes"]), allow_tqdm=False)
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=task["patch"])
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=task["classes"])
    predictor.allowed_mirroring_axes = tuple(task["mirror_axes"]) or None
    image = torch.randn((1, *task["extent"]))
    with torch.inference_mode():
        predictor.predict_sliding_window_return_logits(image[:, : task["patch"][0]])  # kernels are chosen
        return time_work(lambda: predictor.predict_sliding_window_return_logits(image), device, repetitions=1, before=0)


def time_work(work: Callable[[], object], device: torch.device, *, repetitions: int, before: int = 4) -> float:
    """Returns the seconds of a repetition after the first ones."""
    for _ in range(before):
        work()
    begin = read_clock(device)
    for _ in range(repetitions):
        work()
    return (read_clock(device) - begin) / repetitions


def read_clock(device: torch.device) -> float:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
