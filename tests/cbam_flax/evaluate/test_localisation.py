import numpy as np
import pytest

from cbam_flax.evaluate import localisation, saliency
from cbam_flax.models import create_model

BOX = np.float32([[0.25, 0.5, 0.75, 1.0]])  # rows 2 to 6 of 8, columns 4 to 8: a quarter


def test_coverage_is_the_share_of_each_cell_in_the_union():
    assert localisation.coverage(BOX, 4, 4).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
    ]
    twice = np.concatenate([BOX, BOX])
    np.testing.assert_array_equal(localisation.coverage(twice, 2, 2), [[0, 0.5], [0, 0.5]])
    assert localisation.coverage(np.zeros((0, 4)), 3, 3).sum() == 0


def test_a_uniform_map_scores_the_area_on_both():
    found = localisation.score(np.full((1, 8, 8), 0.7), [BOX])
    assert found["pointing"] == found["energy"] == pytest.approx(0.25)


def test_a_map_inside_the_box_scores_one_and_outside_zero():
    inside, outside = np.zeros((8, 8)), np.ones((8, 8))
    inside[3, 5] = 2
    outside[2:6, 4:] = 0
    found = localisation.score(np.stack([inside, outside]), [BOX, BOX])
    assert found["pointing"].tolist() == [1, 0]
    assert found["energy"].tolist() == [1, 0]


def test_energy_is_counted_from_the_lowest_value():
    floor = np.full((8, 8), 0.5)
    floor[3, 5], floor[0, 0] = 0.8, 0.6
    found = localisation.score(floor[None], [BOX])
    assert found["energy"][0] == pytest.approx(0.75)
    assert found["pointing"][0] == 1


def test_a_cell_on_the_edge_counts_in_part():
    edge = np.zeros((4, 4))
    edge[1, 2] = 1
    found = localisation.score(edge[None], [np.float32([[0.25, 0.5, 0.375, 0.75]])])
    assert found["pointing"][0] == pytest.approx(0.5)


def test_maps_of_noise_score_the_area():
    rng = np.random.default_rng(0)
    found = localisation.score(rng.random((2000, 8, 8)), [BOX] * 2000)
    assert found["pointing"].mean() == pytest.approx(0.25, abs=0.04)
    assert found["energy"].mean() == pytest.approx(0.25, abs=0.01)


def test_mean_box_map_leaves_out_images_without_boxes():
    found = localisation.mean_box_map([BOX, np.zeros((0, 4))], size=4)
    np.testing.assert_array_equal(found, localisation.coverage(BOX, 4, 4))


def test_gain_is_over_the_area_of_the_same_images():
    rng = np.random.default_rng(0)
    area = rng.uniform(0.05, 0.4, 60)
    scores = {
        "area": {"pointing": area, "energy": area},
        "good": {"pointing": area + 0.3, "energy": area + 0.1},
    }
    found = localisation.with_intervals(scores, np.arange(60) // 2, resamples=200)
    assert found["good"]["energy_gain"] == {"value": 0.1, "low": 0.1, "high": 0.1}
    assert found["good"]["energy"]["value"] == pytest.approx(area.mean() + 0.1, abs=1e-5)
    assert found["good"]["energy"]["low"] < found["good"]["energy"]["value"]
    assert "energy_gain" not in found["area"]


@pytest.fixture(scope="module")
def model(make_tiny_config):
    config = make_tiny_config().model
    config.context, config.pooling = "none", "max"
    return create_model(config)


def test_localise_scores_boxed_images_beside_all_baselines(
    model, draw_variables, make_columns, monkeypatch
):
    monkeypatch.setattr(saliency, "METHODS", {"attention": saliency.attention})
    columns = make_columns(60)
    images = np.random.default_rng(0).integers(256, size=(60, 32, 32), dtype=np.uint8)
    variables = draw_variables(model, 32)
    train = make_columns(60, seed=1)["boxes"]
    found = localisation.localise(model, variables, columns, images, train, 12, resamples=50)
    assert found["n"] == 12
    assert set(found["scores"]) == {"attention", "random_attention", "mean_box", "area"}
    # The made-up boxes are nine hundredths of the square each.
    assert found["scores"]["area"]["energy"]["value"] == pytest.approx(0.09, abs=0.005)
    # They lie about one place, which a map of that place finds, and noise does not.
    assert found["scores"]["mean_box"]["energy_gain"]["low"] > 0
    assert found["scores"]["random_attention"]["energy_gain"]["value"] < 0.05


def test_no_boxes_no_score(model, make_columns):
    columns = make_columns(6)
    columns["boxes"][:] = [np.zeros((0, 4))] * 6
    assert localisation.localise(model, {}, columns, np.zeros((6, 32, 32)), None, 9) is None
