"""nnU-Net's trainers: which of them leave the network alone, and the training that they stand for.

A trainer is a class of Python code, of which a model folder holds the name only. What its network looks like is known
of the trainers that nnU-Net ships; their names are made of the parts below, and so are those of the combinations that
others have added (such as nnUNetTrainer_1000epochs_NoMirroring).
"""

import re
from typing import Final

from autoseg.errors import ExchangeError
from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS, build_reference_training, build_reference_transforms
from autoseg.plan.training import TrainingPlan

BASE: Final = "nnUNetTrainer"
HARMLESS_PARTS: Final = (
    r"Benchmark", r"\d+ep(?:och)?s?", r"noDataLoading",
    r"NoMirroring", r"onlyMirror01", r"noDummy2DDA", r"NoDA",
    r"DA5", r"DA5ord0", r"DA5Segord0", r"DAOrd0", r"DASegOrd0",
    r"DiceLoss", r"DiceCELoss", r"noSmooth", r"CELoss", r"Topk10Loss", r"Topk10LossLS01", r"DiceTopK10Loss",
    r"CosAnneal", r"warmup", r"(?:Vanilla)?Adam(?:\den\d)?", r"Adan(?:\den\d)?",
    r"NoDeepSupervision", r"probabilisticOversampling", r"0\d\d",
)  # fmt: skip
"""Length, augmentation, loss, schedule, optimizer, sampling: nothing that a trained network shows."""
HARMLESS_NAME: Final = re.compile(rf"{BASE}(?:_?(?:{'|'.join(HARMLESS_PARTS)}))*")


def check_trainer(name: str, *, where: str, accepts_any: bool) -> None:
    """Refuses trainers that may build a network of their own.

    Args:
        name: Name of the trainer class.
        where: Name of the model in a message.
        accepts_any: The user vouches for it.

    Raises:
        ExchangeError: The trainer is not known to use the network of the plans.
    """
    if accepts_any or HARMLESS_NAME.fullmatch(name):
        return
    msg = (
        f"{where} was trained by {name}, which nnU-Net does not ship and which may build another network than the "
        f"plans say (activations do not show in the weights); if you know that it changes neither network nor "
        f"preprocessing, import it with --any-trainer"
    )
    raise ExchangeError(msg)


def build_trainer_plan(
    patch_voxels: tuple[int, ...],
    *,
    batch_size: int,
    batch_dice: bool,
    mirror_axes: tuple[int, ...],
    is_cascade: bool = False,
) -> TrainingPlan:
    """The training of the class nnUNetTrainer, which a model folder does not record.

    Prediction uses the batch size and the mirrored axes of it; the rest would count if the run were trained further.
    """
    transforms = build_reference_transforms(patch_voxels, mirror_axes=mirror_axes)
    return build_reference_training(
        batch_size=batch_size,
        batch_dice=batch_dice,
        transforms=(*transforms, *REFERENCE_MASK_TRANSFORMS) if is_cascade else transforms,
    )
