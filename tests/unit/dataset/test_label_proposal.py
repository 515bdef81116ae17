from autoseg.dataset.cases import Findings
from autoseg.dataset.drafting.label_proposal import propose_labels, propose_structures
from autoseg.dataset.drafting.mask_joining import find_nesting
from autoseg.dataset.label_entries import parse_labels


def test_values_are_kept_as_they_are_and_named_by_number():
    proposal = propose_labels({0: 90, 3: 5, 7: 5}, structure="")
    assert dict(proposal.labels) == {"background": (0,), "label_3": (3,), "label_7": (7,)}
    assert proposal.notes == ()


def test_a_binary_mask_keeps_255():
    proposal = propose_labels({0: 90, 255: 5}, structure="")
    assert dict(proposal.labels) == {"background": (0,), "label_255": (255,)}
    assert proposal.notes == ()


def test_a_single_structure_is_called_as_its_files():
    assert dict(propose_labels({0: 9, 1: 1}, structure="liver").labels) == {"background": (0,), "liver": (1,)}


def test_a_probable_ignore_value_is_mentioned_and_stays_a_label():
    proposal = propose_labels({0: 9, 1: 1, 255: 1}, structure="")
    assert dict(proposal.labels) == {"background": (0,), "label_1": (1,), "label_255": (255,)}
    (note,) = proposal.notes
    assert "255 often marks voxels that nobody labelled" in note


def test_label_maps_without_background_are_warned_of():
    (note,) = propose_labels({1: 9, 2: 1}, structure="").notes
    assert note.startswith("warning: no label map holds the value 0")


def test_structures_are_numbered_in_their_order():
    nesting = find_nesting({"a": {(0,): 5, (1,): 5}}, structure_count=2)
    proposal = propose_structures(["liver", "spleen"], nesting)
    assert dict(proposal.labels) == {"background": (0,), "liver": (1,), "spleen": (2,)}
    assert proposal.region_order == ()


def test_nested_structures_become_regions_that_dataset_json_takes():
    nesting = find_nesting({"a": {(2,): 5, (1, 2): 5, (0, 1, 2): 2}}, structure_count=3)
    proposal = propose_structures(["core", "half", "whole"], nesting)
    assert dict(proposal.labels) == {"background": (0,), "whole": (3, 1, 2), "half": (2, 1), "core": (1,)}
    assert proposal.region_order == (3, 2, 1)
    findings = Findings()
    entries = {name: list(values) if len(values) > 1 else values[0] for name, values in proposal.labels.items()}
    scheme = parse_labels(entries, list(proposal.region_order), findings)
    assert (findings.problems, findings.notes) == ([], [])
    assert scheme.class_names == ("whole", "half", "core")
