"""The values of the user's files come back in what prediction writes."""

import numpy as np
import pytest
from builders.folds import write_trained_fold
from builders.labels import build_labels
from builders.plans import build_configuration, build_plan
from PIL import Image

from autoseg.inference.options import PredictionOptions
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import read_label_map
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images

REQUEST = PredictionRequest(options=PredictionOptions(mirroring=False), device="cpu")


def make_scheme(*values):
    return build_labels({f"class {value}": (value,) for value in values})


@pytest.mark.parametrize(("values", "kind"), [((255,), np.uint8), ((2, 255), np.uint8), ((5, 1000), np.uint16)])
def test_pictures_with_gaps_in_their_labels(tmp_path, *, values, kind):
    configuration = build_configuration((16, 16), spacing_mm=(1.0, 1.0), network={"output_channels": 1 + len(values)})
    configuration = configuration.model_copy(update={"data_of": "2d"})
    plan = build_plan({"2d": configuration}, labels=make_scheme(*values), orientation=None)
    write_trained_fold(tmp_path / "run", plan.model_copy(update={"file_ending": ".png"}), "2d", fold="0")
    (tmp_path / "images").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (20, 24)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "images" / "new.png")
    predict_images(tmp_path / "run", tmp_path / "images", tmp_path / "out", request=REQUEST, progress=SilentProgress())
    stored = np.asarray(Image.open(tmp_path / "out" / "new.png"))
    assert stored.dtype == kind
    assert set(np.unique(stored)) == {0, *values}


def test_labels_of_a_picture_are_numbered_inside_and_restored(tmp_path):
    scheme = make_scheme(255)
    picture = np.where(np.eye(6, dtype=bool), 255, 0).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "label.png")
    encoded = scheme.encode(read_label_map(tmp_path / "label.png").array)
    assert set(np.unique(encoded)) == {0, 1}
    np.testing.assert_array_equal(scheme.decode(encoded)[0], picture)
