"""Voxels to be ignored where whole label maps are encoded: what stands for them, and when there are too many."""

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.plans import build_configuration

from autoseg.errors import PlanError
from planners.dataset_decisions import choose_common

LABELS = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)


def list_reasons(*ignored: float | None, network: str = "latent_diffusion", labels=LABELS) -> dict[str, str]:
    """The reasons of a plan of one configuration, of as many cases as shares are given."""
    cases = tuple(
        build_case((1.0, 1.0, 1.0), (1, 8, 8), voxel_counts=(1, 1)).model_copy(update={"ignored_fraction": share})
        for share in ignored
    )
    common = choose_common(build_fingerprint((1.0, 1.0, 1.0), (1, 8, 8), cases=cases, labels=labels))
    part = build_configuration((8, 8)).model_copy(update={"network": build_small_network_plan(network, 2)})
    return {reason.subject: reason.because for reason in common._adapt("2d", part)[1]}


@pytest.mark.parametrize(
    ("shares", "told"), [((0.4, 0.6), r"\(are 0.5 of all\) get the label of"), ((None,), r"\(were not counted\)")]
)
def test_they_get_the_nearest_label_with_a_reason(shares, told) -> None:
    reason = list_reasons(*shares)["2d: ignored voxels"]
    assert told.replace("\\", "") in reason


def test_more_than_half_is_refused() -> None:
    with pytest.raises(
        PlanError, match=r"52% of the voxels carry the ignore label \(at most 50% may\); choose another"
    ):
        list_reasons(0.44, 0.6)


def test_other_networks_and_datasets_without_the_label_need_nothing() -> None:
    assert list_reasons(0.9, network="plain_unet") == {}
    assert list_reasons(None, labels=build_labels({"one": (1,), "two": (2,)})) == {}
