from autoseg.dataset.drafting.glob_roles import assign_roles
from autoseg.dataset.drafting.pairing import pair_by_name


def pair(paths, **patterns):
    return [
        ([image.path for image in case.images], list(case.masks.items()))
        for case in pair_by_name(assign_roles(paths, **patterns)).cases
    ]


def list_paths(pairs):
    return [(images, [label.path for _, label in masks]) for images, masks in pairs]


def test_what_the_stars_stand_for_tells_the_case():
    paths = ["x/a_raw.tif", "x/b_raw.tif", "y/deep/a_drawn.png", "y/deep/b_drawn.png", "z/a.png"]
    found = pair(paths, images="x/*_raw.tif", labels="y/**/*_drawn.png")
    assert list_paths(found) == [
        (["x/a_raw.tif"], ["y/deep/a_drawn.png"]),
        (["x/b_raw.tif"], ["y/deep/b_drawn.png"]),
    ]


def test_folders_of_any_depth_tell_the_case_where_names_do_not():
    found = pair(["p/1/i.png", "p/1/m.png", "q/i.png", "q/m.png"], images="**/i.png", labels="**/m.png")
    assert list_paths(found) == [(["p/1/i.png"], ["p/1/m.png"]), (["q/i.png"], ["q/m.png"])]


def test_stars_in_folders_and_names_count_together():
    paths = ["p1/scan.nii.gz", "p1/liver.nii.gz", "p2/scan.nii.gz", "p2/liver.nii.gz", "p2/spleen.nii.gz"]
    found = pair(paths, images="*/scan.nii.gz", labels="*/liver.nii.gz")
    assert list_paths(found) == [
        (["p1/scan.nii.gz"], ["p1/liver.nii.gz"]),
        (["p2/scan.nii.gz"], ["p2/liver.nii.gz"]),
    ]


def test_a_file_that_both_patterns_match_is_a_label_map():
    paths = ["a.png", "a_1stHO.png", "a_2ndHO.png"]
    assert list_paths(pair(paths, images="*.png", labels="*_1stHO.png"))[0] == (["a.png"], ["a_1stHO.png"])


def test_stars_that_reach_into_the_ending_tell_no_more_than_the_name():
    found = pair(["i/a_0000.nii.gz", "l/a.nii"], images="i/*", labels="l/*.nii*")
    assert list_paths(found) == [(["i/a_0000.nii.gz"], ["l/a.nii"])]


def test_patterns_reach_folders_that_are_left_out_otherwise():
    found = pair(["test/images/a.png", "test/labels/a.png"], images="test/images/*", labels="test/labels/*")
    assert list_paths(found) == [(["test/images/a.png"], ["test/labels/a.png"])]
