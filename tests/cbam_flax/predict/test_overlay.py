import cv2
import numpy as np
import pytest

from cbam_flax.predict import overlay

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])


def test_the_map_lands_where_it_was_seen():
    attention = np.zeros((8, 8), np.float32)
    attention[1, 6] = 1  # row 1 and column 6 of 8: the centre is at 1.5 / 8 and 6.5 / 8
    placed = overlay.place(attention, WHOLE, (160, 80))
    y, x = np.unravel_index(placed.argmax(), placed.shape)
    assert abs((y + 0.5) / 160 - 1.5 / 8) < 1 / 80
    assert abs((x + 0.5) / 80 - 6.5 / 8) < 1 / 40


def test_the_letterbox_margin_is_cut_off():
    attention = np.zeros((8, 8), np.float32)
    attention[:, :2] = 1  # lies wholly in the margin of a image that fills columns 2 to 6
    box = np.array([0.0, 0.25, 1.0, 0.75])
    placed = overlay.place(attention, box, (64, 32))
    assert placed[:, 8:].max() == 0
    attention[:, 2:6] = np.linspace(0.1, 0.4, 4)
    attention[:, :2], attention[:, 6:] = 0.1, 0.4
    placed = overlay.place(attention, box, (64, 32))
    np.testing.assert_allclose(placed[0, 4::8], [0.1, 0.2, 0.3, 0.4], atol=0.02)


def test_a_panel_keeps_aspect_and_grey_levels():
    image = np.full((2000, 1000), 40000, np.uint16)
    panel = overlay.scale_to_panel(image)
    assert panel.shape == (768, 384)
    assert panel.dtype == np.uint8
    assert abs(int(panel[0, 0]) - 40000 / 257) <= 1
    assert overlay.scale_to_panel(np.zeros((10, 20), np.uint8)).shape == (384, 768)


def test_the_image_stays_visible_on_the_left_and_under_low_attention():
    panel = np.random.default_rng(0).integers(0, 256, (768, 500), np.uint8)
    attention = np.zeros((4, 4), np.float32)
    attention[3] = 0.9
    picture = overlay.draw(panel, attention, WHOLE, ["name", "score"])
    assert picture.shape == (overlay.STRIP + 768, 1000 + overlay.SCALE, 3)
    image = np.repeat(panel[..., None], 3, 2)
    np.testing.assert_array_equal(picture[overlay.STRIP :, :500], image)
    top, bottom = picture[overlay.STRIP :, 500:1000][:90], picture[overlay.STRIP :, 500:1000][-90:]
    np.testing.assert_array_equal(top, image[:90])
    assert np.abs(bottom.astype(int) - image[-90:]).mean() > 30
    assert picture[: overlay.STRIP].max() > 200  # the words


@pytest.mark.parametrize("values", [np.zeros((1, 1)), np.full((4, 4), 0.7)])
def test_a_map_that_is_the_same_everywhere_tints_nothing_and_has_no_scale(values):
    panel = np.random.default_rng(0).integers(0, 256, (768, 500), np.uint8)
    picture = overlay.draw(panel, values.astype(np.float32), WHOLE, ["name"])[overlay.STRIP :]
    np.testing.assert_array_equal(picture[:, :500], picture[:, 500:1000])
    assert not picture[:, 1000:].any()


def test_the_colour_bar_runs_from_the_plain_grey_to_the_colour_of_the_highest():
    panel = np.full((768, 500), overlay.BEHIND, np.uint8)
    values = np.zeros((4, 4), np.float32)
    values[0] = 3.5
    picture = overlay.draw(panel, values, WHOLE, ["name"])[overlay.STRIP :]
    bar = picture[:, 1000 + 12 + overlay.BAR // 2]
    rows = np.flatnonzero(bar.any(axis=1))
    inside = rows[(rows > 768 // 4 + 2) & (rows < 3 * 768 // 4 - 2)]
    np.testing.assert_allclose(bar[inside[0]], picture[0, 750], atol=4)
    np.testing.assert_allclose(bar[inside[-1]], picture[-1, 750], atol=4)
    lightness = cv2.cvtColor(picture[inside, 1000:1024], cv2.COLOR_RGB2LAB)[:, 20, 0].astype(int)
    assert lightness[0] > lightness[-1] + 50
    numbers = [picture[:180, 1000:], picture[-180:, 1000:]]
    assert all(each.max() > 200 for each in numbers)


def test_a_long_line_is_written_smaller_and_whole():
    panel = np.zeros((768, 300), np.uint8)
    line = "LEAK, SHORTCUT, SMALL, SYNTHETIC, " * 4
    picture = overlay.draw(panel, np.zeros((1, 1), np.float32), WHOLE, [line])
    words = picture[: overlay.STRIP].max((0, 2))
    assert words[-60:-20].max() > 200
    assert not words[-3:].any()


def test_png_keeps_every_pixel_and_its_colour():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(overlay.encode_png(picture), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], picture)


def test_the_words_fit_over_a_narrow_image():
    panel = np.full((768, 100), 7, np.uint8)
    picture = overlay.draw(panel, np.zeros((1, 1), np.float32), WHOLE, ["name"])
    assert picture.shape == (overlay.STRIP + 768, overlay.MIN_WIDTH, 3)
    assert (picture[overlay.STRIP :, :200] == 7).all()
    assert not picture[overlay.STRIP :, 200:].any()
    words = picture[: overlay.STRIP].max((0, 2))
    assert words[300:500].max() > 200
    assert not words[-10:].any()
