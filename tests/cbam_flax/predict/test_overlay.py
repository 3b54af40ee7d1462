import cv2
import numpy as np

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
    assert picture.shape == (overlay.STRIP + 768, 1000, 3)
    image = np.repeat(panel[..., None], 3, 2)
    np.testing.assert_array_equal(picture[overlay.STRIP :, :500], image)
    top, bottom = picture[overlay.STRIP :, 500:][:90], picture[overlay.STRIP :, 500:][-90:]
    np.testing.assert_array_equal(top, image[:90])
    assert np.abs(bottom.astype(int) - image[-90:]).mean() > 30
    assert picture[: overlay.STRIP].max() > 200  # the words


def test_a_model_without_a_map_shows_the_image_twice():
    panel = np.random.default_rng(0).integers(0, 256, (768, 500), np.uint8)
    picture = overlay.draw(panel, np.zeros((1, 1), np.float32), WHOLE, ["name"])
    np.testing.assert_array_equal(picture[overlay.STRIP :, :500], picture[overlay.STRIP :, 500:])


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
