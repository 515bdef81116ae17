"""Run by nnU-Net's interpreter: reads the weights of its models, and writes a model folder with given weights.

`python peer_model.py read FOLD_FOLDER WEIGHTS.npz` and
`python peer_model.py write PLANS.json DATASET.json CONFIGURATION WEIGHTS.npz MODEL_FOLDER`; weights are named as there.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def read(fold: Path, target: Path) -> None:
    """Weights of a checkpoint; nnU-Net's own may hold pickled objects."""
    weights = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)["network_weights"]
    np.savez(target, **{name: tensor.numpy() for name, tensor in weights.items()})


def write(plans: Path, dataset: Path, configuration: str, *, weights: Path, folder: Path) -> None:
    """A model folder of one fold, "0", with the given weights."""
    manager, description = PlansManager(load_json(str(plans))), load_json(str(dataset))
    part = manager.get_configuration(configuration)
    network = get_network_from_plans(
        part.network_arch_class_name,
        part.network_arch_init_kwargs,
        part.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, part, description),
        manager.get_label_manager(description).num_segmentation_heads,
        deep_supervision=True,
    )
    stored = np.load(weights)
    for name, parameter in network.named_parameters():
        parameter.data.copy_(torch.from_numpy(stored[name]))
    (folder / "fold_0").mkdir(parents=True)
    shutil.copy(plans, folder / "plans.json")
    shutil.copy(dataset, folder / "dataset.json")
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": configuration},
        "inference_allowed_mirroring_axes": tuple(range(len(part.patch_size))),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "read":
        read(Path(arguments[0]), Path(arguments[1]))
    else:
        plans, dataset, configuration, weights, folder = arguments
        write(Path(plans), Path(dataset), configuration, weights=Path(weights), folder=Path(folder))
