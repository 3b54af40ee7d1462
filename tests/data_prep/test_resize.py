import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep.resize import fit_image, shrink


def ramp(rows, columns, dtype=np.uint8):
    image = np.add.outer(np.arange(rows), 2 * np.arange(columns)).astype(float)
    return (image / image.max() * np.iinfo(dtype).max).astype(dtype)


def test_area_is_the_mean_of_the_pixels():
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    square, _ = fit_image(image, 16)
    mean = image.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(square - mean).max() <= 0.5


def test_nearest_is_that_of_pil_and_so_of_keras():
    image = np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8)
    square, _ = fit_image(image, 28, interpolation="nearest")
    expected = Image.fromarray(image).resize((28, 28), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(square, np.asarray(expected))


@pytest.mark.parametrize(("rows", "columns"), [(100, 60), (60, 100), (37, 99), (1, 50), (80, 80)])
@pytest.mark.parametrize("size", [32, 200])
def test_letterbox_keeps_the_aspect_and_fills_with_black(rows, columns, size):
    square, placement = fit_image(np.full((rows, columns), 200, np.uint8), size)
    assert square.shape == (size, size)
    ys, xs = np.nonzero(square)
    height, width = np.ptp(ys) + 1, np.ptp(xs) + 1
    assert max(height, width) == size
    assert abs(height / rows - width / columns) * min(rows, columns) <= 1
    assert set(np.unique(square)) <= {0, 200}
    assert (placement.top, placement.left) == (ys.min(), xs.min())
    assert abs((size - height - ys.min()) - ys.min()) <= 1


def test_squash_fills_the_square():
    square, _ = fit_image(np.full((100, 60), 200, np.uint8), 32, "squash")
    assert (square == 200).all()


def test_sixteen_bits_become_eight_at_the_end():
    square, _ = fit_image(ramp(64, 64, np.uint16), 16)
    assert square.dtype == np.uint8
    assert np.abs(square.astype(int) - fit_image(ramp(64, 64), 16)[0]).max() <= 1
    white, _ = fit_image(np.full((8, 8), 65535, np.uint16), 4)
    assert (white == 255).all()


@pytest.mark.parametrize("aspect", ["letterbox", "squash"])
@pytest.mark.parametrize(("rows", "columns"), [(1024, 1024), (300, 500), (500, 300)])
def test_boxes_go_with_the_image(aspect, rows, columns):
    image = np.zeros((rows, columns), np.uint8)
    box = np.array([[rows // 4, columns // 5, rows // 2, columns // 2]])
    image[rows // 4 : rows // 2, columns // 5 : columns // 2] = 255
    square, placement = fit_image(image, 100, aspect)
    ymin, xmin, ymax, xmax = placement.forward_boxes(box)[0] * 100
    ys, xs = np.nonzero(square > 127)
    assert abs(ys.min() - ymin) <= 1
    assert abs(xs.min() - xmin) <= 1
    assert abs(ys.max() + 1 - ymax) <= 1
    assert abs(xs.max() + 1 - xmax) <= 1
    np.testing.assert_allclose(
        placement.inverse_boxes(placement.forward_boxes(box)), box, atol=1e-3
    )


def test_the_box_of_the_whole_image_stays_inside_the_square():
    for rows, columns in [(1024, 1024), (997, 641), (333, 1000)]:
        _, placement = fit_image(np.zeros((rows, columns), np.uint8), 224)
        whole = placement.forward_boxes(np.array([[0, 0, rows, columns]]))
        assert whole.min() >= 0
        assert whole.max() <= 1


def test_a_square_is_shrunk_by_averaging_and_never_enlarged():
    square = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    mean = square.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(shrink(square, 16) - mean).max() <= 0.5
    np.testing.assert_array_equal(shrink(square, 64), square)
    with pytest.raises(ValueError, match="64 px is not enlarged to 65 px"):
        shrink(square, 65)


def test_no_boxes():
    _, placement = fit_image(np.zeros((10, 10), np.uint8), 8)
    assert placement.forward_boxes(np.zeros((0, 4))).shape == (0, 4)


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="cubic"):
        fit_image(np.zeros((8, 8), np.uint8), 4, "letterbox", "cubic")


def test_the_decoder_imports_no_tensorflow():
    code = (
        "import sys, data_prep.dicom, data_prep.resize, data_prep.radiographs; "
        "heavy = {'tensorflow', 'tensorflow_datasets', 'jax', 'sklearn'}; "
        "sys.exit(bool(heavy & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
