import gc
import tracemalloc

from builders.fingerprints import build_case
from builders.labels import build_labels

from autoseg.document import pack_parts
from autoseg.fingerprint import CaseFingerprint
from autoseg.workflows.plan import class_counts
from autoseg.workflows.plan.class_counts import count_class_occurrences, find_duplicates, warn_of_rare_classes


def make_case(name, *voxel_counts, digest=""):
    return build_case(name=name, voxel_counts=voxel_counts, image_digest=digest)


def test_regions_are_counted_with_all_their_values():
    labels = build_labels({"whole": (1, 7), "core": (7,)}, region_write_values=(1, 7))
    counts = count_class_occurrences(labels, [make_case("a", 10, 3), make_case("b", 5, 0)])
    assert [(c.name, c.values, c.cases, c.voxels) for c in counts] == [("whole", (1, 7), 2, 15), ("core", (7,), 1, 3)]


def test_a_class_in_no_case_is_named_as_such():
    labels = build_labels({"x": (1,), "y": (2,)})
    cases = [make_case(str(index), 1, 0) for index in range(5)]
    (warning,) = warn_of_rare_classes(count_class_occurrences(labels, cases), counted=5)
    assert "class 'y' occurs in none of 5 cases" in warning


def test_cases_without_digest_are_no_copies():
    cases = [make_case("a", digest="1"), make_case("b"), make_case("c"), make_case("d", digest="1")]
    assert find_duplicates(cases) == (("a", "d"),)


def test_different_digests_with_one_hash_are_no_copies(monkeypatch):
    monkeypatch.setattr(class_counts, "hash", len, raising=False)
    cases = [make_case(name, digest=digest) for name, digest in zip("abcde", ("1", "2", "3", "2", "3"), strict=True)]
    assert find_duplicates(cases) == (("b", "d"), ("c", "e"))


def test_little_is_kept_of_a_case_while_copies_are_looked_for():
    count = 500
    case = make_case("a", 1, digest="1")
    cases = pack_parts(
        CaseFingerprint, (case.model_copy(update={"image_digest": f"{index:064x}"}) for index in range(count))
    )
    gc.collect()
    tracemalloc.start()
    assert find_duplicates(cases) == ()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / count <= 200  # with names and digests 300
