"""Small components far away that a first stage finds by mistake do not make the box of the second one larger; and it is
made larger where cases reach beyond their boxes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.folds import build_checkpoint_description
from builders.progress import Notes, skip_drawing
from safetensors.torch import save_file

from autoseg.document import parse_part, read_document, write_document
from autoseg.errors import DocumentError
from autoseg.inference.model import load_model
from autoseg.nonzero_region import compute_bounding_box
from autoseg.plan import BoxOfPreviousStage, Plan
from autoseg.plan.decisions import Reason
from autoseg.preprocessing.cache import open_case
from autoseg.processes.progress import SilentProgress
from autoseg.stages.box_components import BoxCase, BoxComponents, find_components, learn_margin, learn_minimum
from autoseg.stages.out_of_fold import digest_sources
from autoseg.stages.previous_input import StagePrediction
from autoseg.training.checkpoint import DESCRIPTION_KEY
from autoseg.training.loop_state import TrainingIdentity
from autoseg.workflows import cascade
from autoseg.workflows.cascade import find_link, learn_box, prepare_stage_input
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.training import train_run

FIRST, ROI = "3d_lowres", "3d_cascade_fullres"
MINIMUM, MARGIN = f"{ROI}: smallest component of the box", f"{ROI}: further margin of the box"
WITH_STRAY, WITHOUT = ((1, 10), (1, 12), (0, 8)), ((1, 7), (1, 9), (0, 7))


_no_drawing = pytest.fixture(autouse=True)(skip_drawing)


def make_case(*components, reference=((2, 4), (2, 4), (2, 4)), shape=(10, 10, 10), margin_mm=0.0, voxel_mm3=10.0):
    """A case with components (volume, box), the largest first; voxels are 2 mm long along the first axis, else 1 mm."""
    volumes, boxes = zip(*components, strict=True) if components else ((), ())
    found = BoxComponents(
        volumes_mm3=np.array(volumes, float),
        boxes=np.array(boxes, np.int64).reshape(len(components), 3, 2),
        voxel_mm3=voxel_mm3,
    )
    return BoxCase(
        found=found, reference=reference, shape_voxels=shape, spacing_mm=(2.0, 1.0, 1.0), margin_mm=margin_mm
    )


BIG, LEFT, RIGHT = ((1, 5), (1, 5), (1, 5)), ((2, 4), (2, 4), (2, 3)), ((2, 4), (2, 4), (3, 4))
STRAY = ((9, 10), (9, 10), (9, 10))


def test_components_are_found_with_their_volumes_the_largest_first():
    foreground = np.zeros((4, 5, 6), bool)
    foreground[0, 0, 0] = foreground[2:4, 1:3, 2:5] = foreground[1, 3, 5] = True  # the last one touches at a corner
    found = find_components(foreground, voxel_mm3=0.5)
    assert found.volumes_mm3.tolist() == [6.5, 0.5]
    assert found.boxes.tolist() == [[[1, 4], [1, 4], [2, 6]], [[0, 1], [0, 1], [0, 1]]]
    assert found.join(0.0) == ((0, 4), (0, 4), (0, 6))
    assert found.join(0.6) == ((1, 4), (1, 4), (2, 6))
    assert found.join(7.0) == found.join(0.0)  # none is large enough, so all count
    assert find_components(np.zeros((4, 5, 6), bool), voxel_mm3=1.0).join(0.0) is None


def test_the_box_of_all_components_is_that_of_the_foreground():
    random = np.random.default_rng(0)
    for _ in range(20):
        foreground = random.random((6, 7, 8)) < 0.02
        if foreground.any():
            assert find_components(foreground, voxel_mm3=1.0).join(0.0) == compute_bounding_box(foreground)


def test_half_of_the_smallest_component_that_matters_in_some_case_is_the_minimum():
    cases = [make_case((100.0, BIG), (3.0, STRAY)), make_case((40.0, LEFT), (30.0, RIGHT), (2.0, STRAY)), make_case()]
    learned = learn_minimum(cases, distance_unit="mm")
    assert learned.value == 15.0
    shares = [(9**3 + 8 * 8 * 8 + 1000) / 3000, (4**3 + 2**3 + 1000) / 3000]
    assert learned.because == (
        f"all 3 held-out cases lie in the box of the components of at least 30 mm3, of which half is taken, as new "
        f"images may have smaller ones (guess); boxes hold {shares[1]:.3g} of an image, the mean over the cases, "
        f"instead of {shares[0]:.3g}"
    )
    assert all(case.covers(learned.value) for case in cases)


@pytest.mark.parametrize(("voxel_mm3", "minimum"), [(1.0, 5.0), (1.3, 5.2), (200.0, 200.0)])
def test_what_is_large_beside_the_largest_component_is_never_left_out(voxel_mm3, minimum):
    volumes = (400.0, 500.0, 2000.0)
    cases = [make_case((volume, BIG), (3.0, STRAY), voxel_mm3=voxel_mm3) for volume in volumes]
    learned = learn_minimum([*cases, make_case()], distance_unit="mm")
    assert learned.value == minimum
    is_half = minimum == 200.0
    assert ("of at least 400 mm3, of which half is taken, as new" in learned.because) == is_half
    told = f"of which {minimum:g} are taken, 0.01 of what the median case has or 4 voxels, as new images"
    assert (told in learned.because) == (not is_half)


def test_a_case_outside_its_box_keeps_what_it_has_and_the_others_lose_their_strays_all_the_same():
    cases = [make_case((100.0, BIG), (3.0, STRAY)), make_case((40.0, LEFT), (1.0, (*LEFT[:2], (1, 2))))]
    learned = learn_minimum(cases, distance_unit="mm")
    assert learned.value == 20.0
    assert learned.because.startswith(
        "1 of 2 held-out cases, as many as in the box of all components, lie in the box of the components of at least "
        "40 mm3, of which half is taken"
    )
    assert [case.covers(learned.value) for case in cases] == [case.covers(0.0) for case in cases] == [True, False]


def test_a_component_that_holds_a_part_of_a_case_outside_its_box_counts():
    beyond = ((2, 4), (2, 4), (3, 6))
    cases = [make_case((100.0, BIG), (2.0, STRAY)), make_case((40.0, LEFT), (5.0, RIGHT), reference=beyond)]
    learned = learn_minimum(cases, distance_unit="mm")
    assert learned.value == 2.5
    assert cases[1].components.join(learned.value) == cases[1].components.join(0.0)


def test_a_box_that_holds_nothing_of_the_reference_needs_its_largest_component_alone():
    missed = make_case((40.0, LEFT), (1.0, RIGHT), reference=((8, 9), (8, 9), (8, 9)))
    assert learn_minimum([make_case((100.0, BIG), (3.0, STRAY)), missed], distance_unit="mm").value == 20.0


def test_a_case_without_foreground_needs_its_largest_component_alone():
    learned = learn_minimum([make_case((8.0, BIG), (2.0, STRAY), reference=None)], distance_unit="mm")
    assert learned.value == 4.0


@pytest.mark.parametrize(
    ("cases", "because"),
    [
        ([make_case((9.0, BIG), (1.0, LEFT))], "leaving out small components makes the box of no held-out case"),
        ([make_case((9.0, LEFT), (8.0, RIGHT), (5.0, STRAY))], "leaving out small components makes the box of no"),
    ],
)
def test_every_component_counts_where_a_minimum_would_lose_something_or_gain_nothing(cases, because):
    learned = learn_minimum(cases, distance_unit="mm")
    assert learned.value == 0.0
    assert because in learned.because


BARE = ((4, 6), (4, 6), (4, 6))


@pytest.mark.parametrize(
    ("reference", "distance_mm"),
    [
        (BARE, 0.0),
        (((4, 5), (4, 6), (5, 6)), 0.0),
        (((3, 6), (4, 6), (4, 6)), 2.0),
        (((4, 6), (2, 6), (4, 9)), 3.0),
        (None, 0.0),
    ],
)
def test_the_distance_is_how_far_the_reference_reaches_beyond_the_box_without_a_margin(reference, distance_mm):
    case = make_case((8.0, BARE), (1.0, STRAY), reference=reference, margin_mm=3.0)
    assert case.measure_distance_mm(2.0) == distance_mm
    if reference is None or reference[2][1] == 9:
        assert case.measure_distance_mm(0.0) == (0.0 if reference is None else 2.0)  # the stray reaches as far
    assert make_case(reference=reference).measure_distance_mm(0.0) == 0.0


def test_the_margin_becomes_the_largest_distance():
    cases = [
        make_case((8.0, BARE), (1.0, STRAY), reference=((4, 6), (4, 6), (1, 6)), margin_mm=2.0),
        make_case((8.0, BARE), reference=BARE, margin_mm=2.0),
        make_case(margin_mm=2.0),
    ]
    learned = learn_margin(cases, 2.0, distance_unit="mm")
    assert learned.value == 1.0
    shares = [(2 * 4 * 6 * 6 + 1000) / 3000, (2 * 6 * 8 * 8 + 1000) / 3000]
    assert learned.because == (
        f"the reference reaches at most 3 mm beyond what is predicted (3 held-out cases), and the margin is 2: 3 of 3 "
        f"lie in their boxes instead of 2, and boxes hold {shares[1]:.3g} of an image instead of {shares[0]:.3g}"
    )


@pytest.mark.parametrize("spacing_mm", [1.0, 0.9, 0.8, 0.7421875, 0.00025])
def test_a_box_with_the_learned_margin_reaches_as_far_as_the_reference_and_no_voxel_further(spacing_mm):
    for beyond in range(4, 8):
        reference = ((9, 11), (9, 11), (9, 11 + beyond))
        bare = make_case((8.0, ((9, 11),) * 3), reference=reference, margin_mm=3.7001 * spacing_mm)
        case = replace(bare, spacing_mm=(spacing_mm,) * 3, shape_voxels=(40, 40, 40))
        wider = replace(case, margin_mm=case.margin_mm + learn_margin([case], 0.0, distance_unit="mm").value)
        assert wider.components.join(0.0)[2] == (9 - beyond, 11 + beyond)


def test_the_planned_margin_stays_where_it_suffices_and_what_is_not_predicted_at_all_does_not_count():
    near = make_case((8.0, BARE), reference=((4, 6), (4, 6), (2, 6)), margin_mm=3.0)
    missed = make_case((8.0, BARE), reference=((4, 6), (4, 6), (4, 13)), margin_mm=3.0)
    learned = learn_margin([near, missed], 0.0, distance_unit="pixel")
    assert learned.value == 0.0
    assert learned.because == (
        "the reference reaches at most 2 pixel beyond what is predicted (in 1 of 2 held-out cases; the others are "
        "predicted in part only), so the margin of 3, in whole voxels, suffices"
    )
    without = make_case((8.0, BARE), reference=((4, 6), (4, 6), (2, 6)))
    assert learn_margin([without], 0.0, distance_unit="mm").value == 0.0


def test_the_planned_margin_stays_where_its_whole_voxels_hold_all_cases():
    case = make_case((8.0, BARE), reference=((2, 6), (4, 6), (4, 6)), margin_mm=3.0)  # voxels are 2 mm long there
    learned = learn_margin([case], 0.0, distance_unit="mm")
    assert learned.value == 0.0
    assert learned.because == (
        "the reference reaches at most 4 mm beyond what is predicted (1 held-out cases), so the margin of 3, in whole "
        "voxels, suffices"
    )


@pytest.mark.parametrize("margin_mm", [3.0, 0.0])
def test_no_margin_is_said_to_suffice_where_every_case_is_predicted_in_part_only(margin_mm):
    missed = make_case((8.0, BARE), reference=((4, 6), (4, 6), (4, 13)), margin_mm=margin_mm)
    learned = learn_margin([missed, missed], 0.0, distance_unit="mm")
    assert learned.value == 0.0
    assert learned.because == (
        f"all 2 held-out cases reach beyond what is predicted by more than 2 times the margin of {margin_mm:g} mm: "
        f"they are predicted in part only, which no margin mends"
    )


@pytest.fixture
def roi_run(run, describe_plan, train, monkeypatch):
    """A run whose first stage is trained and finds a stray voxel, with the plan of a second one in its box."""
    content = describe_plan()
    del content["configurations"]["third"]
    second = content["configurations"][ROI]
    second["previous_stage"] = {"input": "box", "configuration": FIRST, "margin_mm": 1.0}
    second["network"]["input_channels"] = 1
    plan = Plan.model_validate(content)
    write_document(run.plan, plan)
    for fold in range(3):
        train(plan, FIRST, str(fold))
    label_map = np.zeros((5, 6, 4), np.int16)
    label_map[1:3, 1:4, 0:3] = label_map[4, 5, 3] = 1
    monkeypatch.setattr(StagePrediction, "restore_on", lambda prediction, shape: label_map)
    monkeypatch.setattr(cascade, "FEWEST_CASES", 3)
    return run


def learn(run, splits, progress=None):
    link = find_link(run, read_document(run.plan, Plan), ROI, splits)
    return learn_box(link, device="cpu", progress=progress or SilentProgress())


@pytest.fixture
def retrain_first_stage(roi_run, train, monkeypatch):
    """Trains the first stage again, which then finds less."""

    def retrain():
        for fold in range(3):
            train(read_document(roi_run.plan, Plan), FIRST, str(fold), is_random=True)
        label_map = np.zeros((5, 6, 4), np.int16)
        label_map[1:3, 1:4, 1:3] = label_map[4, 5, 3] = 1
        monkeypatch.setattr(StagePrediction, "restore_on", lambda prediction, shape: label_map)

    return retrain


def test_what_is_learned_stands_in_the_plan_and_shapes_the_boxes_of_training_and_prediction(roi_run, splits, train):
    link = learn(roi_run, splits)
    plan = read_document(roi_run.plan, Plan)
    assert link.plan == plan
    assert plan.configurations[ROI].previous_stage.minimum_mm3 == 32.0  # 4 voxels of 8 mm3, less than half of 18
    learned = [(reason.subject, reason.value) for reason in plan.reasons[-2:]]
    assert learned == [(MINIMUM, "32 mm3"), (MARGIN, "0 mm")]
    assert link.list_outdated_cases(link.find_sources()) == []
    stored = prepare_stage_input(link, device="cpu", progress=SilentProgress())
    assert stored.open_case(roi_run.preprocessed("3d_fullres"), "a").image.shape == (1, 6, 8, 7)
    assert learn(roi_run, splits).plan == plan
    train(plan, ROI, "0", is_random=True)
    model = load_model(roi_run, configuration=ROI, folds=("0",), device="cpu")
    grid = open_case(roi_run.preprocessed("3d_fullres"), "a").geometry.grid
    case = model.preprocess(np.random.default_rng(0).normal(1, 0.1, (1, 10, 12, 8)).astype(np.float32), grid)
    assert torch.equal(model.predict_case(case), model.predict_preprocessed(case.image, box=WITHOUT))


def test_what_others_write_into_the_plan_meanwhile_is_kept(roi_run, splits, monkeypatch):
    plan = read_document(roi_run.plan, Plan)
    other = plan.model_copy(update={"reasons": (*plan.reasons, Reason(subject="other", value="1", because="learned"))})

    def find_while_another_process_writes(*arguments, **named):
        write_document(roi_run.plan, other)
        return find_box_cases(*arguments, **named)

    find_box_cases = cascade._find_box_cases
    monkeypatch.setattr(cascade, "_find_box_cases", find_while_another_process_writes)
    link = learn(roi_run, splits)
    assert read_document(roi_run.plan, Plan) == link.plan
    assert [reason.subject for reason in link.plan.reasons[-3:]] == ["other", MINIMUM, MARGIN]
    assert link.plan.configurations[ROI].previous_stage.minimum_mm3 == 32.0


def test_boxes_are_made_again_where_the_minimum_of_the_plan_differs(roi_run, splits):
    link = learn(roi_run, splits)
    content = link.plan.model_dump(mode="json")
    content["configurations"][ROI]["previous_stage"]["minimum_mm3"] = 0.0
    other = find_link(roi_run, Plan.model_validate(content), ROI, splits)
    assert other.list_outdated_cases(other.find_sources()) == ["a", "b", "c"]
    stored = prepare_stage_input(other, device="cpu", progress=SilentProgress())
    extents = tuple(end - first for first, end in WITH_STRAY)
    assert stored.open_case(roi_run.preprocessed("3d_fullres"), "a").image.shape == (1, *extents)


def test_boxes_are_made_larger_where_cases_reach_beyond_them(roi_run, splits, train, monkeypatch):
    monkeypatch.setattr(cascade, "compute_bounding_box", lambda mask: ((0, 6), (2, 8), (0, 6)))
    link = learn(roi_run, splits)
    stage = link.plan.configurations[ROI].previous_stage
    assert (stage.minimum_mm3, stage.margin_mm, stage.further_margin_mm) == (32.0, 1.0, 1.0)
    assert (link.plan.reasons[-1].subject, link.plan.reasons[-1].value) == (MARGIN, "1 mm")
    assert link.list_outdated_cases(link.find_sources()) == []
    stored = prepare_stage_input(link, device="cpu", progress=SilentProgress())
    assert stored.open_case(roi_run.preprocessed("3d_fullres"), "a").image.shape == (1, 8, 10, 8)
    assert learn(roi_run, splits).plan == link.plan
    train(link.plan, ROI, "0", is_random=True)
    model = load_model(roi_run, configuration=ROI, folds=("0",), device="cpu")
    grid = open_case(roi_run.preprocessed("3d_fullres"), "a").geometry.grid
    case = model.preprocess(np.random.default_rng(0).normal(1, 0.1, (1, 10, 12, 8)).astype(np.float32), grid)
    wider = ((0, 8), (0, 10), (0, 8))
    assert torch.equal(model.predict_case(case), model.predict_preprocessed(case.image, box=wider))


def test_a_larger_box_does_not_change_what_is_trained_on_but_where_it_is_larger_than_that(roi_run, splits, monkeypatch):
    monkeypatch.setattr(cascade, "compute_bounding_box", lambda mask: ((0, 6), (2, 8), (0, 6)))
    content = learn(roi_run, splits).plan.model_dump(mode="json")
    stage = content["configurations"][ROI]["previous_stage"]
    shapes = {}
    for further_mm in (0.0, 1.0):
        for margins in ((0, 0, 0), (1, 2, 0)):
            stage |= {"further_margin_mm": further_mm, "training_margin_voxels": margins}
            link = find_link(roi_run, Plan.model_validate(content), ROI, splits)
            stored = prepare_stage_input(link, device="cpu", progress=SilentProgress())
            opened = stored.open_case(roi_run.preprocessed("3d_fullres"), "a")
            shapes[further_mm, margins] = opened.image.shape[1:]
    assert shapes == {
        (0.0, (0, 0, 0)): (6, 8, 7),  # the margin of 1 mm alone; the box begins with the image along x
        (1.0, (0, 0, 0)): (8, 10, 8),
        (0.0, (1, 2, 0)): (8, 11, 7),  # along y the image ends
        (1.0, (1, 2, 0)): (8, 11, 8),
    }


def test_trained_folds_keep_the_box_of_all_components(roi_run, splits, train):
    plan = read_document(roi_run.plan, Plan)
    train(plan, ROI, "0")
    assert learn(roi_run, splits).plan == plan == read_document(roi_run.plan, Plan)


def test_it_is_learned_anew_where_the_first_stage_was_trained_again(roi_run, splits, retrain_first_stage):
    first = learn(roi_run, splits).plan
    retrain_first_stage()
    link = learn(roi_run, splits)
    plan = read_document(roi_run.plan, Plan)
    assert link.plan == plan
    assert plan.configurations[ROI].previous_stage.minimum_mm3 == 32.0  # 4 voxels of 8 mm3, less than half of 12
    assert plan.reasons[:-2] == first.reasons[:-2]
    assert [(reason.subject, reason.value) for reason in plan.reasons[-2:]] == [(MINIMUM, "32 mm3"), (MARGIN, "0 mm")]
    assert link.list_outdated_cases(link.find_sources()) == []


@pytest.mark.parametrize("changed", ["minimum_mm3", "further_margin_mm"])
def test_what_the_user_writes_is_kept_where_the_first_stage_was_trained_again(
    roi_run, splits, retrain_first_stage, changed
):
    content = learn(roi_run, splits).plan.model_dump(mode="json")
    content["configurations"][ROI]["previous_stage"][changed] = 10.0
    write_document(roi_run.plan, Plan.model_validate(content))
    retrain_first_stage()
    assert learn(roi_run, splits).plan == Plan.model_validate(content)


def test_behind_trained_folds_it_stays_and_it_is_said_what_to_do(roi_run, splits, retrain_first_stage):
    plan = learn(roi_run, splits).plan
    link = find_link(roi_run, plan, ROI, splits)
    identity = TrainingIdentity(
        plan_digest="", fold_digest="", seed=0, previous_digest=digest_sources(link.find_sources())
    )
    description = build_checkpoint_description(identity=identity).model_dump_json()
    write_document(roi_run.fold(ROI, "1").plan, plan)
    save_file({"x": torch.zeros(1)}, roi_run.fold(ROI, "1").final_checkpoint, {DESCRIPTION_KEY: description})
    notes = Notes()
    assert learn(roi_run, splits, notes).plan == plan
    assert notes.lines == []
    retrain_first_stage()
    assert learn(roi_run, splits, notes).plan == plan == read_document(roi_run.plan, Plan)
    values = "smallest component of the box: 32 mm3; further margin of the box: 0 mm"
    assert notes.lines == [
        f"warning: {FIRST} was trained again since fold 1 of {ROI}, so what its box needs ({values}) was learned from "
        f"its earlier predictions; to learn it anew, move {roi_run.configuration_models(ROI)} away and train all folds "
        f"again"
    ]


def test_few_cases_and_masks_leave_the_plan_as_it_is(roi_run, splits, monkeypatch):
    plan = read_document(roi_run.plan, Plan)
    monkeypatch.setattr(cascade, "FEWEST_CASES", 4)
    assert learn(roi_run, splits).plan == plan


def test_a_training_learns_it_before_it_begins(roi_run):
    request = TrainingRequest(configuration=ROI, folds=("0",), device="cpu", precision="float32", workers=0)
    list(train_run(roi_run.root, request, progress=SilentProgress()))
    plan = read_document(roi_run.fold(ROI, "0").plan, Plan)
    assert plan.configurations[ROI].previous_stage.minimum_mm3 == 32.0


def test_plans_of_earlier_versions_let_every_component_count_and_a_negative_minimum_is_refused():
    stage = BoxOfPreviousStage(configuration=FIRST, margin_mm=1.0)
    assert (stage.minimum_mm3, stage.box_minimum_mm3) == (0.0, 0.0)
    assert (stage.further_margin_mm, stage.box_margin_mm) == (0.0, 1.0)
    assert "further_margin_mm" not in stage.model_dump(mode="json")
    with pytest.raises(DocumentError, match="minimum_mm3"):
        parse_part(stage.model_dump() | {"minimum_mm3": -1.0}, BoxOfPreviousStage, where="plan.json")
