from autoseg.dataset.drafting.image_tree import find_reading_problem, list_image_tree


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_of_all_folders_are_listed(tmp_path):
    touch(tmp_path, "a.png", "b/c.nii.gz", "b/d/e.MHA", "b/d/e.raw", "notes.txt", "b/f.gif", ".hidden.png", "._a.png")
    assert sorted(list_image_tree(tmp_path)) == ["a.png", "b/c.nii.gz", "b/d/e.MHA", "b/f.gif"]


def test_header_and_voxels_are_one_image(tmp_path):
    touch(tmp_path, "a.hdr", "a.img", "b.img")
    assert sorted(list_image_tree(tmp_path)) == ["a.hdr", "b.img"]


def test_joined_label_maps_and_runs_are_passed_over(tmp_path):
    touch(tmp_path, "a.png", "labels_joined/a.png", "x.autoseg/plan.json", "x.autoseg/references/a.png")
    assert list_image_tree(tmp_path) == ["a.png"]


def test_links_are_followed_and_circles_end(tmp_path):
    touch(tmp_path, "elsewhere/a.png", "data/b.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "back").symlink_to(tmp_path / "data")
    assert sorted(list_image_tree(tmp_path / "data")) == ["b.png", "linked/a.png"]


def test_formats_that_are_known_and_not_read_come_with_advice():
    assert find_reading_problem("x/a.GIF") == ".gif files are not read; save it as PNG"
    assert find_reading_problem("x/a.png") is None
