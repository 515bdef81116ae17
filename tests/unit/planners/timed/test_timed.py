import math
from contextlib import nullcontext
from functools import cache, partial

import pytest
from builders.fingerprints import build_fingerprint
from builders.hosts import GPU, HOST, build_host

from autoseg.errors import PlanError
from autoseg.fingerprint import Machine, TimedSteps
from autoseg.networks.cost import measure_cost
from autoseg.workflows.plan.planning import find_network_cost
from planners import PLANNERS
from planners.rules.topology import compute_topology
from planners.step_time import correct_throughput, estimate_step_seconds
from planners.timed.budget import SUFFICIENT_ITERATIONS
from planners.timed.candidates import (
    ENOUGH_PATCHES,
    ITERATIONS_FOR_LARGER_BATCH,
    SUFFICIENT_CONTEXT_FRACTION,
    choose_small_unet,
)

TIMED = PLANNERS["timed"]
HIPPOCAMPUS = ((1.0, 1.0, 1.0), (36, 50, 35))
CT = ((5.0, 0.8, 0.8), (100, 512, 512))


def slow_down(factor):
    rates = {width: rate / factor for width, rate in HOST.convolution_flops.items()}
    return build_host(convolution_flops=rates, elementwise_rate=HOST.elementwise_rate / factor)


def make_plan(fingerprint, *, minutes=30.0, throughput=HOST):
    machine = Machine(accelerator_memory_gb=None, throughput=throughput, budget_seconds=minutes * 60)
    return TIMED.plan(fingerprint, machine, measure_cost=find_network_cost)


def estimate(configuration, host, *, batch_size=None):
    batch_size = batch_size or configuration.training.batch_size
    return estimate_step_seconds(find_network_cost(configuration.network, configuration.patch_voxels, batch_size), host)


@pytest.mark.parametrize(("width", "batch", "measured"), [(16, 2, 0.162), (32, 2, 0.473), (32, 7, 1.429)])
def test_the_estimate_agrees_with_steps_that_were_measured_on_that_cpu(width, batch, measured):
    topology = compute_topology((1.0, 1.0, 1.0), (40, 56, 40))
    network = choose_small_unet(topology, input_channels=1, output_channels=3, width=width)[0]
    seconds = estimate_step_seconds(find_network_cost(network, topology.patch_voxels, batch), HOST)
    assert seconds == pytest.approx(measured, rel=0.2)


def test_one_configuration_is_planned_with_the_budget_in_it():
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS, count=200), minutes=20.0)
    assert list(plan.configurations) == ["3d_fullres"]
    assert plan.budget_seconds == 1200
    assert plan.configurations["3d_fullres"].training.budget_seconds == pytest.approx(0.9 * 1200)


@pytest.mark.parametrize("minutes", [4.0, 8.0, 30.0, 480.0])
@pytest.mark.parametrize("data", [HIPPOCAMPUS, CT], ids=["hippocampus", "ct"])
def test_enough_patches_fit_into_the_budget(data, minutes):
    (configuration,) = make_plan(build_fingerprint(*data, count=50), minutes=minutes).configurations.values()
    assert estimate(configuration, HOST, batch_size=1) * ENOUGH_PATCHES <= configuration.training.budget_seconds


@pytest.mark.parametrize("data", [HIPPOCAMPUS, CT], ids=["hippocampus", "ct"])
def test_more_time_and_a_faster_machine_never_give_a_smaller_network(data):
    def cost(**changes):
        (configuration,) = make_plan(build_fingerprint(*data, count=50), **changes).configurations.values()
        return estimate(configuration, HOST, batch_size=1)

    by_time = [cost(minutes=minutes) for minutes in (2.0, 5.0, 10.0, 30.0, 120.0, 600.0)]
    by_speed = [cost(throughput=slow_down(factor)) for factor in (32, 8, 2, 1)]
    assert by_time == sorted(by_time)
    assert by_speed == sorted(by_speed)
    assert by_time[0] < by_time[-1]


@pytest.mark.parametrize("data", [HIPPOCAMPUS, CT], ids=["hippocampus", "ct"])
@pytest.mark.parametrize("minutes", [2.0, 8.0, 30.0, 120.0, 480.0])
def test_patches_come_in_pairs_where_that_leaves_many_iterations(data, minutes):
    plan = make_plan(build_fingerprint(*data, count=50), minutes=minutes)
    ((name, configuration),) = plan.configurations.items()
    in_pairs = configuration.training.budget_seconds / estimate(configuration, HOST, batch_size=2)
    assert configuration.training.batch_size == (2 if in_pairs >= ITERATIONS_FOR_LARGER_BATCH else 1)
    reasons = {reason.subject: reason for reason in plan.reasons}
    assert reasons[f"{name}: batch"].value == str(configuration.training.batch_size)
    assert f"hold {int(in_pairs):,} iterations" in reasons[f"{name}: batch"].because


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (20_000.0, "no wider network and no larger patch is tried; at an estimated "),
        (
            8.0,
            "1 larger combination of network and patch would see too few patches in the time, or need too much memory",
        ),
        (
            1.0,
            "larger combinations of network and patch would see too few patches in the time, or need too much memory",
        ),
    ],
)
def test_the_reason_says_what_was_tried_before(minutes, words):
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS, count=50), minutes=minutes)
    (because,) = [reason.because for reason in plan.reasons if reason.subject == "3d_fullres: network"]
    assert words in because


def test_both_batches_are_planned():
    sizes = {
        configuration.training.batch_size
        for minutes in (8.0, 480.0)
        for configuration in make_plan(build_fingerprint(*HIPPOCAMPUS), minutes=minutes).configurations.values()
    }
    assert sizes == {1, 2}


def test_a_pair_of_patches_that_memory_cannot_hold_is_not_planned():
    fingerprint = build_fingerprint(*HIPPOCAMPUS, count=200)
    roomy = make_plan(fingerprint, minutes=600.0).configurations["3d_fullres"]
    elements = 40 * 56 * 40 * 32  # of one feature map of the first stage; all are several times as many
    tight = build_host(memory_gb=2 * 12 * elements * 8 / 1e9)
    plan = make_plan(fingerprint, minutes=600.0, throughput=tight)
    assert roomy.training.batch_size == 2
    assert plan.configurations["3d_fullres"].training.batch_size == 1
    assert (
        "GB that are kept for them" in {reason.subject: reason.because for reason in plan.reasons}["3d_fullres: batch"]
    )


def test_large_volumes_are_seen_at_a_coarser_spacing_with_enough_context():
    plan = make_plan(build_fingerprint(*CT, count=50))
    assert list(plan.configurations) == ["3d_lowres"]
    configuration = plan.configurations["3d_lowres"]
    assert configuration.data_of == "3d_lowres"
    assert configuration.spacing_mm[1] > 0.8
    shape = [
        extent * 5.0 / mm if axis == 0 else extent * 0.8 / mm
        for axis, (extent, mm) in enumerate(zip((100, 512, 512), configuration.spacing_mm, strict=True))
    ]
    covered = 1.0
    for patch, extent in zip(configuration.patch_voxels, shape, strict=True):
        covered *= patch / extent
    assert covered >= SUFFICIENT_CONTEXT_FRACTION * 0.98


def test_pictures_get_a_2d_network_that_is_mirrored():
    pictures = build_fingerprint((999.0, 1.0, 1.0), (1, 584, 565), count=20).model_copy(update={"orientation": None})
    plan = make_plan(pictures)
    assert list(plan.configurations) == ["2d"]
    assert plan.configurations["2d"].training.mirror_axes == (0, 1)


def test_volumes_of_known_orientation_are_not_mirrored():
    fingerprint = build_fingerprint(*HIPPOCAMPUS, count=200).model_copy(update={"orientation": "RAS"})
    (configuration,) = make_plan(fingerprint).configurations.values()
    assert configuration.training.mirror_axes == ()


def test_little_memory_gives_a_smaller_network():
    fingerprint = build_fingerprint(*HIPPOCAMPUS, count=200)
    small = build_host(memory_gb=0.5)
    roomy, tight = (
        make_plan(fingerprint, minutes=600.0, throughput=host).configurations["3d_fullres"] for host in (HOST, small)
    )
    assert estimate(tight, HOST) < estimate(roomy, HOST)


def test_every_decision_has_numbers_in_its_reason():
    reasons = {
        reason.subject: reason.because for reason in make_plan(build_fingerprint(*HIPPOCAMPUS, count=200)).reasons
    }
    assert "403 GFLOP/s at 16" in reasons["budget"]
    assert "s per iteration" in reasons["3d_fullres: network"]
    assert {"training", "3d_fullres: augmentation", "3d_fullres: topology"} <= set(reasons)
    assert "0.876 against 0.872 after 800" in reasons["training"]
    assert "about the last 1,000 iterations" in reasons["training"]
    assert "0.880 instead of 0.876 after 800 iterations" in reasons["3d_fullres: augmentation"]
    assert "0.881 in batches of 1, 0.876 of 2" in reasons["3d_fullres: batch"]


@pytest.mark.parametrize(("share", "is_told"), [(1.0, False), (0.9, False), (0.31, True)])
def test_a_measurement_that_was_disturbed_is_told(share, is_told):
    host = build_host(received_share=share)
    reasons = {
        reason.subject: reason.because for reason in make_plan(build_fingerprint(*HIPPOCAMPUS), throughput=host).reasons
    }
    assert ("got only 31 % of the time of these cores" in reasons["budget"]) == is_told


def test_an_unmeasured_machine_is_refused():
    with pytest.raises(PlanError, match=r"plans for a measured device.*Machine\.throughput"):
        TIMED.plan(build_fingerprint(*HIPPOCAMPUS), Machine(accelerator_memory_gb=None))


def test_uncounted_networks_are_refused():
    with pytest.raises(PlanError, match=r"plans with the cost of networks.*measure_cost"):
        TIMED.plan(build_fingerprint(*HIPPOCAMPUS), Machine(accelerator_memory_gb=None, throughput=HOST))


count_on_meta_device = cache(measure_cost)  # plans for different times try many of the same networks


@pytest.mark.parametrize("minutes", [1.0, 60.0])
@pytest.mark.parametrize("data", [HIPPOCAMPUS, CT], ids=["hippocampus", "ct"])
def test_networks_that_are_counted_on_the_meta_device_give_the_same_plan(data, minutes):
    fingerprint = build_fingerprint(*data, count=50)
    machine = Machine(accelerator_memory_gb=None, throughput=HOST, budget_seconds=minutes * 60)
    measured = TIMED.plan(fingerprint, machine, measure_cost=count_on_meta_device)
    assert measured == make_plan(fingerprint, minutes=minutes)


def test_images_without_room_for_a_network_are_refused():
    with pytest.raises(PlanError, match="too small for a network"):
        make_plan(build_fingerprint((1.0, 1.0, 1.0), (5, 5, 5)))


def find_reason(plan, word):
    (reason,) = (reason for reason in plan.reasons if word in reason.subject)
    return reason


def test_a_plan_states_what_it_needs_and_how_much_of_it_there_is_time_for():
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS, count=200))
    (configuration,) = plan.configurations.values()
    assert configuration.training.sufficient_iterations == SUFFICIENT_ITERATIONS == 1500
    reason = find_reason(plan, "iterations")
    assert (reason.subject, reason.value) == ("iterations needed", "at least 1,500")
    certain = int(2 / 3 * int(configuration.training.budget_seconds / estimate(configuration, HOST)))
    assert f"27 minutes hold {certain:,} if validation takes the third" in reason.because


def test_a_machine_that_is_too_slow_for_what_the_smallest_network_needs_is_warned_of():
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS, count=200), minutes=0.5, throughput=slow_down(50))
    reason = find_reason(plan, "iterations")
    assert reason.subject == "warning: too few iterations"
    assert "so expect a poor model: --budget 1m would do" in reason.because


def test_where_no_network_fits_the_time_the_spacing_becomes_coarser_and_a_warning_says_so():
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS, count=200), minutes=0.5, throughput=slow_down(50))
    ((name, configuration),) = plan.configurations.items()
    covered = math.prod(configuration.patch_voxels) / math.prod(configuration.median_shape_voxels)
    assert name == "3d_lowres"
    assert min(configuration.spacing_mm) > 1
    assert covered >= SUFFICIENT_CONTEXT_FRACTION
    warning = find_reason(plan, "smallest network")
    patches = int(configuration.training.budget_seconds / estimate(configuration, slow_down(50)))
    assert warning.subject.startswith("warning: ")
    assert f"0.45 minutes hold {patches:,} patches of the smallest network instead of 5,000" in warning.because
    assert f"covers {covered * 100:.3g} % of the median case" in warning.because
    assert "coarser than the 1 x 1 x 1 mm of the data" in warning.because


def test_where_not_even_the_smallest_network_fits_into_memory_a_warning_says_so():
    tight = build_host(memory_gb=0.0002)
    machine = Machine(accelerator_memory_gb=8.0, throughput=tight, budget_seconds=1800.0)
    plan = TIMED.plan(build_fingerprint(*HIPPOCAMPUS, count=200), machine, measure_cost=find_network_cost)
    assert "more than the 0.0001 GB that are kept for them" in find_reason(plan, "smallest network").because


def test_a_warning_of_the_smallest_network_tells_that_the_measurement_was_disturbed():
    slow = slow_down(50).model_copy(update={"received_share": 0.31})
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS, count=200), minutes=0.5, throughput=slow)
    assert "got only 31 % of the time" in find_reason(plan, "smallest network").because


@pytest.mark.parametrize("minutes", [4.0, 30.0])
def test_a_network_that_fits_is_not_warned_of(minutes):
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS, count=200), minutes=minutes)
    assert not [reason for reason in plan.reasons if "warning" in reason.subject]


def test_a_machine_that_can_train_next_to_nothing_is_refused_with_the_time_that_it_needs():
    with pytest.raises(PlanError, match=r"too slow for the budget.*at least 1,500 iterations.*--budget \d+m would do"):
        make_plan(build_fingerprint(*HIPPOCAMPUS, count=200), minutes=0.5, throughput=slow_down(1000))


def test_a_gpu_is_refused_by_steps_that_were_timed_and_not_by_its_layers_alone():
    slow = GPU.model_copy(update={"layer_seconds": 0.1})
    plan = partial(make_plan, build_fingerprint(*HIPPOCAMPUS, count=200), minutes=0.5)
    estimated = plan(throughput=slow)
    assert "so expect a poor model" in find_reason(estimated, "warning: too few iterations").because
    (name,) = estimated.configurations
    for seconds, is_refused in ((0.002, False), (5.0, True)):
        steps = TimedSteps(configuration=name, seconds=(seconds, 1.2 * seconds))
        with pytest.raises(PlanError, match="too slow for the budget") if is_refused else nullcontext():
            plan(throughput=slow.model_copy(update={"steps": steps}))


def test_volumes_so_far_apart_that_a_patch_holds_one_slice_are_planned_in_2d():
    plan = make_plan(build_fingerprint((9000.0, 1.0, 1.0), (6, 300, 300), count=20))
    assert list(plan.configurations) == ["2d"]


@pytest.mark.parametrize(
    ("batch", "least_ms", "most_ms"),
    [
        (7, 7.7, 25.5),
        (2, 7.7, 25.5),
    ],  # measured on an H100: 7.7 ms as a compiled graph, 25.5 ms with waiting for patches
)
def test_the_estimate_of_a_step_on_a_gpu_is_near_the_measured_ones(batch, least_ms, most_ms):
    topology = compute_topology((1.0, 1.0, 1.0), (40, 56, 40))
    network = choose_small_unet(topology, input_channels=1, output_channels=3, width=32)[0]
    seconds = estimate_step_seconds(find_network_cost(network, topology.patch_voxels, batch), GPU)
    assert least_ms < 1000 * seconds < most_ms


def test_a_gpu_gets_the_widest_network_and_pairs_of_patches_in_minutes():
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS, count=200), minutes=4.0, throughput=GPU)
    (configuration,) = plan.configurations.values()
    assert configuration.patch_voxels == (40, 56, 40)
    assert configuration.network.features_per_stage[0] == 32
    assert configuration.training.batch_size == 2
    assert plan.accelerator_memory_gb == GPU.memory_gb
    reasons = {reason.subject: reason.because for reason in plan.reasons}
    assert "Measured on NVIDIA H100 80GB HBM3 in bfloat16" in reasons["budget"]
    assert "300000 GFLOP/s at 256 channels" in reasons["budget"]
    assert "0.8 ms for each layer" in reasons["budget"]
    assert reasons["memory target"] == "the memory of NVIDIA H100 80GB HBM3"
    assert (
        f"with 2 patches 3.6 minutes hold {int(216 / estimate(configuration, GPU)):,} iterations"
        in (reasons["3d_fullres: batch"])
    )


def test_a_gpu_sees_more_of_a_large_volume_than_a_cpu_in_the_same_time():
    def find_cost(throughput):
        (configuration,) = make_plan(build_fingerprint(*CT, count=50), throughput=throughput).configurations.values()
        return math.prod(configuration.patch_voxels) / math.prod(configuration.spacing_mm)

    assert find_cost(GPU) > 2 * find_cost(HOST)


@pytest.mark.parametrize(("layer_seconds", "batch"), [(0.0, 1), (0.01, 2)])
def test_a_second_patch_that_costs_no_second_launch_of_the_layers_comes_with_the_first(layer_seconds, batch):
    slow = GPU.model_copy(
        update={
            "layer_seconds": layer_seconds,
            "convolution_flops": {width: rate / 10 for width, rate in GPU.convolution_flops.items()},
            "elementwise_rate": GPU.elementwise_rate / 10,
        }
    )
    launched_at_once = slow.model_copy(update={"layer_seconds": 0.0})
    network = choose_small_unet(
        compute_topology((1.0, 1.0, 1.0), (40, 56, 40)), input_channels=1, output_channels=3, width=32
    )[0]
    patch_seconds = estimate_step_seconds(find_network_cost(network, (40, 56, 40), 1), launched_at_once)
    minutes = 1.5 * ENOUGH_PATCHES * patch_seconds / 0.9 / 60
    plan = make_plan(build_fingerprint(*HIPPOCAMPUS), minutes=minutes, throughput=slow)
    (configuration,) = plan.configurations.values()
    assert configuration.training.batch_size == batch
    (because,) = (reason.because for reason in plan.reasons if reason.subject.endswith(": batch"))
    told = "launches of kernels take most of it" in because
    assert told == (batch == 2)


def time_steps(*seconds):
    return GPU.model_copy(update={"steps": TimedSteps(configuration="3d_fullres", seconds=seconds)})


@pytest.mark.parametrize("seconds", [(0.008, 0.010), (0.008,), (0.008, 0.02), (0.008, 0.007)])
def test_estimates_that_are_corrected_are_the_steps_that_were_timed(seconds):
    network = choose_small_unet(
        compute_topology((1.0, 1.0, 1.0), (40, 56, 40)), input_channels=1, output_channels=3, width=32
    )[0]
    costs = [find_network_cost(network, (40, 56, 40), batch) for batch in (1, 2)]
    found = correct_throughput(time_steps(*seconds), costs[0])
    single, double = (estimate_step_seconds(cost, found) for cost in costs)
    if seconds == (0.008, 0.02):  # more than twice as long: nothing is left for launches
        assert (single, found.layer_seconds) == (pytest.approx(0.012), 0.0)
    else:
        assert single == pytest.approx(seconds[0])
    expected = {(0.008, 0.010): 0.010, (0.008, 0.02): 0.024, (0.008, 0.007): 0.008 * 1.02}.get(seconds)
    assert expected is None or double == pytest.approx(expected)
    assert correct_throughput(GPU, costs[0]) is GPU


def test_a_gpu_that_trains_faster_than_its_layers_let_expect_gets_a_larger_network():
    fingerprint = build_fingerprint(*CT, count=50)
    by_layers = make_plan(fingerprint, minutes=8.0, throughput=GPU)
    (before,) = by_layers.configurations.values()
    single, double = (estimate(before, GPU, batch_size=batch) for batch in (1, 2))
    same, faster = (
        make_plan(fingerprint, minutes=8.0, throughput=time_steps(factor * single, factor * double))
        for factor in (1.0, 0.25)
    )
    assert same.configurations == by_layers.configurations
    (after,) = faster.configurations.values()
    assert math.prod(after.patch_voxels) > math.prod(before.patch_voxels)
    (budget,) = (reason.because for reason in faster.reasons if reason.subject == "budget")
    timed = f"{250 * single:.3g} ms with one patch and "
    assert f"corrected by steps of 3d_fullres that were timed as training would execute them: {timed}" in budget
    assert all("corrected" not in reason.because for reason in by_layers.reasons)


def test_the_memory_that_is_stated_for_a_gpu_limits_the_patch():
    fingerprint = build_fingerprint(*CT, count=50)
    plans = [
        TIMED.plan(
            fingerprint,
            Machine(accelerator_memory_gb=memory_gb, throughput=GPU, budget_seconds=36_000.0),
            measure_cost=find_network_cost,
        )
        for memory_gb in (4.0, None)
    ]
    small, large = (next(iter(plan.configurations.values())).patch_voxels for plan in plans)
    assert math.prod(small) < math.prod(large)
    assert [plan.accelerator_memory_gb for plan in plans] == [4.0, GPU.memory_gb]


def test_the_planner_is_found_by_its_earlier_name():
    assert PLANNERS["lite"] is TIMED


# What was planned for this CPU before GPUs were.
@pytest.mark.parametrize(
    ("data", "minutes", "name", "patch", "width", "batch"),
    [
        (HIPPOCAMPUS, 2.0, "3d_fullres", (24, 40, 24), 16, 1),
        (HIPPOCAMPUS, 8.0, "3d_fullres", (40, 56, 40), 16, 1),
        (HIPPOCAMPUS, 30.0, "3d_fullres", (40, 56, 40), 32, 1),
        (HIPPOCAMPUS, 480.0, "3d_fullres", (40, 56, 40), 32, 2),
        (CT, 8.0, "3d_lowres", (12, 80, 64), 16, 1),
        (CT, 480.0, "3d_fullres", (48, 320, 320), 16, 1),
    ],
)
def test_plans_for_a_cpu_stay_as_they_were(data, minutes, name, *, patch, width, batch):
    plan = make_plan(build_fingerprint(*data, count=50), minutes=minutes)
    (configuration,) = plan.configurations.values()
    assert list(plan.configurations) == [name]
    assert configuration.patch_voxels == patch
    assert configuration.network.features_per_stage[0] == width
    assert configuration.training.batch_size == batch
