import numpy as np

from autoseg.measurement.cases import compute_image_digest

IMAGE = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)


def test_equal_images_have_equal_digests_whatever_their_memory_order():
    turned = np.ascontiguousarray(IMAGE.transpose(0, 3, 2, 1)[..., ::-1])[..., ::-1].transpose(0, 3, 2, 1)
    assert not turned.flags.c_contiguous
    assert compute_image_digest(turned) == compute_image_digest(IMAGE)


def test_one_changed_voxel_another_shape_or_order_changes_the_digest():
    changed = IMAGE.copy()
    changed[1, 4, 5, 6] = np.nextafter(changed[1, 4, 5, 6], np.float32(9))
    others = [changed, IMAGE.reshape(2, 5, 7, 6), IMAGE[::-1], IMAGE[:, ::-1], IMAGE[:1]]
    digests = {compute_image_digest(image) for image in (IMAGE, *others)}
    assert len(digests) == 1 + len(others)
