"""Laws that hold for every fingerprint, not only for those of the tables."""

import math

from builders.fingerprints import build_case, build_fingerprint
from builders.hosts import build_host
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.plan import ConfigurationPlan, Plan
from autoseg.workflows.plan.planning import find_network_cost
from planners import PLANNERS, Planner
from planners.rules.memory import compute_budget, estimate_feature_map_elements
from planners.rules.topology import Topology

EXTENTS = st.one_of(st.integers(1, 16), st.integers(1, 700))
SPACINGS = st.one_of(st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.floats(0.05, 10.0))
GRIDS = st.lists(
    st.tuples(st.tuples(SPACINGS, SPACINGS, SPACINGS), st.tuples(EXTENTS, EXTENTS, EXTENTS)), min_size=1, max_size=4
)
LABELS = st.sampled_from([2, 3, 100])
PLANNER = st.sampled_from([name for name, planner in PLANNERS.items() if isinstance(planner, Planner)])
MEMORIES_GB = st.floats(0.05, 80.0)
QUICK = settings(max_examples=120, derandomize=True, deadline=None)

Grids = list[tuple[tuple[float, float, float], tuple[int, int, int]]]


@QUICK
@given(grids=GRIDS, labels=LABELS, planner=PLANNER, memory_gb=MEMORIES_GB)
def test_every_fingerprint_has_a_plan_or_an_error_and_every_plan_fits(
    grids: Grids, labels: int, planner: str, memory_gb: float
) -> None:
    plan = _plan(_build_fingerprint(grids, labels), planner, memory_gb)
    rules = PLANNERS[planner]
    assert isinstance(rules, Planner)
    profile = rules.profile
    for configuration in plan.configurations.values() if plan else ():
        topology = _rebuild_topology(configuration)
        assert all(
            extent % divisor == 0 for extent, divisor in zip(topology.patch_voxels, topology.divisors, strict=True)
        )
        elements = estimate_feature_map_elements(configuration.network, topology, declared_label_count=labels)
        budget = compute_budget(
            profile.calibration,
            memory_gb=memory_gb,
            dimensions=configuration.dimensions,
            patch_must_fit=profile.patch_must_fit,
        )
        assert not budget.is_exceeded_by(elements)
        assert configuration.training.batch_size >= 2


@QUICK
@given(grids=GRIDS, planner=PLANNER, memory_gb=MEMORIES_GB, factor=st.floats(1.0, 10.0))
def test_more_memory_never_gives_a_smaller_patch(grids: Grids, planner: str, memory_gb: float, factor: float) -> None:
    fingerprint = _build_fingerprint(grids, 2)
    less, more = (_plan(fingerprint, planner, gigabytes) for gigabytes in (memory_gb, memory_gb * factor))
    if less is None:
        return
    assert more is not None
    for name in ("2d", "3d_fullres"):
        assert (name in less.configurations) == (name in more.configurations)
        if name in less.configurations:
            patches = [plan.configurations[name].patch_voxels for plan in (less, more)]
            assert math.prod(patches[0]) <= math.prod(patches[1])


@QUICK
@given(grids=GRIDS, planner=PLANNER)
def test_the_order_of_the_cases_does_not_matter(grids: Grids, planner: str) -> None:
    plans = [_plan(_build_fingerprint(order, 2), planner, 8.0) for order in (grids, grids[::-1])]
    assert plans[0] == plans[1]


@QUICK
@given(grids=GRIDS, labels=LABELS, minutes=st.floats(0.5, 2000.0), slower=st.floats(0.1, 100.0))
def test_every_fingerprint_has_a_lite_plan_or_an_error(
    grids: Grids, labels: int, minutes: float, slower: float
) -> None:
    rates = {16: 2e11 / slower, 32: 3e11 / slower}
    host = build_host(memory_gb=16.0, convolution_flops=rates, elementwise_rate=5e8 / slower)
    machine = Machine(accelerator_memory_gb=None, throughput=host, budget_seconds=60 * minutes)
    try:
        plan = PLANNERS["lite"].plan(_build_fingerprint(grids, labels), machine, measure_cost=find_network_cost)
    except PlanError:
        return
    (configuration,) = plan.configurations.values()
    divisors = _rebuild_topology(configuration).divisors
    assert all(extent % divisor == 0 for extent, divisor in zip(configuration.patch_voxels, divisors, strict=True))


def _build_fingerprint(grids: Grids, labels: int) -> Fingerprint:
    counts = (1,) * (labels - 1)
    cases = tuple(build_case(spacing_mm, shape, voxel_counts=counts) for spacing_mm, shape in grids)
    return build_fingerprint(*grids[0], declared_labels=labels, intensities=None, cases=cases, orientation=None)


def _plan(fingerprint: Fingerprint, planner: str, memory_gb: float) -> Plan | None:
    try:
        return PLANNERS[planner].plan(fingerprint, Machine(accelerator_memory_gb=memory_gb))
    except PlanError:
        return None


def _rebuild_topology(configuration: ConfigurationPlan) -> Topology:
    network = configuration.network
    axes = range(configuration.dimensions)
    return Topology(
        patch_voxels=configuration.patch_voxels,
        strides=network.strides,
        kernel_sizes=network.kernel_sizes,
        divisors=tuple(math.prod(stride[axis] for stride in network.strides) for axis in axes),
    )
