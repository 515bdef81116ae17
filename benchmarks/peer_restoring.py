"""Run by nnU-Net's interpreter: its export of given logits, `python peer_restoring.py LOGITS.npy TASK.json OUT`."""

import json
import sys
from pathlib import Path

import numpy as np
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def main() -> None:
    """Reads logits and the task, writes a label map."""
    logits, task, out = np.load(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), sys.argv[3]
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": task["network_spacing_mm"],
        "patch_size": [128, 128, 128],
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {"network_class_name": "x", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    plans = {
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "configurations": {"3d_fullres": configuration},
    }
    labels = {"background": 0, **{f"class{index}": index for index in range(1, len(logits))}}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    shape, spacing_mm = task["shape_voxels"], task["spacing_mm"]
    properties = {
        "spacing": spacing_mm,
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, extent] for extent in shape],
        "sitk_stuff": {
            "spacing": spacing_mm[::-1],
            "origin": [0.0, 0.0, 0.0],
            "direction": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        },
    }
    manager = PlansManager(plans)
    export_prediction_from_logits(
        logits, properties, manager.get_configuration("3d_fullres"), manager, description, out
    )


if __name__ == "__main__":
    main()
