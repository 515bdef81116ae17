import pytest

from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_trainers import build_trainer_plan, check_trainer
from autoseg.plan.augmentation import SpatialPlan
from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS

SHIPPED = """
nnUNetTrainer nnUNetTrainerBenchmark_5epochs nnUNetTrainerBenchmark_5epochs_noDataLoading nnUNetTrainerDA5
nnUNetTrainerDA5ord0 nnUNetTrainerDA5Segord0 nnUNetTrainerDA5_10epochs nnUNetTrainerNoDA nnUNetTrainer_DASegOrd0
nnUNetTrainer_DASegOrd0_NoMirroring nnUNetTrainer_noDummy2DDA nnUNetTrainerNoMirroring nnUNetTrainer_onlyMirror01
nnUNetTrainer_onlyMirror01_1500ep nnUNetTrainer_onlyMirror01_DASegOrd0 nnUNetTrainer_warmup nnUNetTrainerCosAnneal
nnUNetTrainerAdan nnUNetTrainerAdan1en3 nnUNetTrainerAdanCosAnneal nnUNetTrainerAdam nnUNetTrainerVanillaAdam3en4
nnUNetTrainer_onlyMirror01_DA5 nnUNetTrainer_1epoch nnUNetTrainer_8000epochs nnUNetTrainer_4000epochs_NoMirroring
nnUNetTrainerDiceLoss nnUNetTrainerDiceCELoss_noSmooth nnUNetTrainerTopk10Loss nnUNetTrainerTopk10LossLS01
nnUNetTrainerDiceTopK10Loss nnUNetTrainerCELoss_5epochs nnUNetTrainerNoDeepSupervision
nnUNetTrainer_probabilisticOversampling_033
""".split()  # noqa: SIM905 (a list of strings would take forty lines)


@pytest.mark.parametrize("name", [*SHIPPED, "nnUNetTrainer_1000epochs_NoMirroring"])
def test_trainers_that_leave_the_network_alone_are_accepted(name: str) -> None:
    check_trainer(name, where="x", accepts_any=False)


@pytest.mark.parametrize(
    "name", ["nnUNetTrainerBN", "nnUNet_Primus_M_Trainer", "nnUNetTrainerSwin", "nnUNetTrainer_custom", "Trainer", ""]
)
def test_other_trainers_are_refused_by_name_unless_the_user_vouches(name: str) -> None:
    with pytest.raises(ExchangeError, match=rf"trained by {name},.*--any-trainer"):
        check_trainer(name, where="x", accepts_any=False)
    check_trainer(name, where="x", accepts_any=True)


@pytest.mark.parametrize(
    ("patch", "degrees", "in_plane"),
    [((40, 56, 40), 30, False), ((10, 56, 40), 180, True), ((56, 40), 180, False), ((64, 40), 15, False)],
)
def test_rotation_follows_the_patch(patch: tuple[int, ...], degrees: float, in_plane: bool) -> None:
    training = build_trainer_plan(patch, batch_size=3, batch_dice=True, mirror_axes=(1,))
    spatial = training.transforms[0]
    assert isinstance(spatial, SpatialPlan)
    assert (spatial.rotation_limit_degrees, spatial.in_plane_only) == (degrees, in_plane)
    assert (training.batch_size, training.losses[0].batch_dice, training.mirror_axes) == (3, True, (1,))


def test_masks_get_mistakes_in_the_second_stage_of_a_cascade_alone() -> None:
    first, second = (
        build_trainer_plan(
            (40, 56, 40), batch_size=2, batch_dice=False, mirror_axes=(), is_cascade=is_cascade
        ).transforms
        for is_cascade in (False, True)
    )
    assert second == (*first, *REFERENCE_MASK_TRANSFORMS)
