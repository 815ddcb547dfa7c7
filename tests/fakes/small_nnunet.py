"""What nnU-Net would have trained: its own plans, network and checkpoint, small, random weights."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

_TORCH = "torch.nn.modules"
_UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset501_Small",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [999.0, 1.0, 1.0],
    "original_median_shape_after_transp": [1, 64, 64],
    "image_reader_writer": "NaturalImage2DIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 90.0, "std": 40.0, "percentile_00_5": 5.0, "percentile_99_5": 250.0}
    },
    "configurations": {
        "2d": {
            "data_identifier": "nnUNetPlans_2d",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [64, 64],
            "median_image_size_in_voxels": [64.0, 64.0],
            "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {
                "is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None,
            },
            "resampling_fn_seg_kwargs": {
                "is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None,
            },
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {
                "is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None,
            },
            "architecture": {
                "network_class_name": _UNET,
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 8, 8],
                    "conv_op": f"{_TORCH}.conv.Conv2d",
                    "kernel_sizes": [[3, 3]] * 3,
                    "strides": [[1, 1], [2, 2], [2, 2]],
                    "n_conv_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": f"{_TORCH}.instancenorm.InstanceNorm2d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": True,
        }
    },
}  # fmt: skip
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "coronary artery": 1, "aorta": 2},
    "numTraining": 4,
    "file_ending": ".png",
}


def save_checkpoint(fold: Path, content: object) -> None:
    """A checkpoint in nnU-Net's own format."""
    torch.save(content, fold / "checkpoint_final.pth")


def save_trained(folder: Path, folds: tuple[str, ...] = ("0",)) -> None:
    """A folder as `nnUNetv2_train` leaves it."""
    with contextlib.redirect_stdout(sys.stderr):
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(PLANS))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    built = PLANS["configurations"]["2d"]["architecture"]
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        network = get_network_from_plans(
            built["network_class_name"],
            built["arch_kwargs"],
            built["_kw_requires_import"],
            1,
            len(DATASET["labels"]),
            deep_supervision=True,
        )
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
        (folder / f"fold_{fold}").mkdir()
        # The keys nnUNetTrainer.save_checkpoint writes.
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": optimizer.state_dict(),
            "grad_scaler_state": None,
            "logging": {"ema_fg_dice": [np.float64(0.4)], "lrs": [0.01], "train": [np.float32(1)]},
            "_best_ema": np.float64(0.4),
            "current_epoch": 1,
            "init_args": {
                "plans": PLANS, "configuration": "2d", "fold": 0, "dataset_json": DATASET,
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1),
        }  # fmt: skip
        save_checkpoint(folder / f"fold_{fold}", checkpoint)
