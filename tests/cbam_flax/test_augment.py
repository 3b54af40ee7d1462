import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax import augment as augment_lib
from cbam_flax.augment import augment, invert, move_boxes, random_affine, warp
from cbam_flax.config import default_config

NOTHING = {name: 0.0 for name in default_config().augment}
BELOW = ((0, 8), (0, 0), (0, 0))


def config(**values):
    group = default_config().augment
    group.update(NOTHING | {"flip_horizontal": False, "flip_vertical": False} | values)
    return group


def images(count=4, size=32):
    """Smooth images: a blob at a random place on black."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    centre = rng.uniform(0.35 * size, 0.65 * size, (count, 2))
    square = (y - centre[:, :1, None]) ** 2 + (x - centre[:, 1:, None]) ** 2
    return jnp.float32(np.exp(-square / (2 * (size / 10) ** 2)))[..., None]


def test_nothing_asked_changes_nothing():
    batch, labels = images(), jnp.array([0.0, 1.0, 1.0, 0.0])
    new, new_labels = augment(batch, labels, jax.random.key(0), config())
    np.testing.assert_array_equal(new, batch)
    np.testing.assert_array_equal(new_labels, labels)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (jnp.array([[1.0, 0, 0], [0, -1, 0]]), lambda image: image[:, ::-1]),
        (jnp.array([[-1.0, 0, 0], [0, 1, 0]]), lambda image: image[::-1]),
        (jnp.array([[0.0, 1, 0], [-1, 0, 0]]), lambda image: np.rot90(image)),
        # A quarter of the side is 0.5 in coordinates from -1 to 1: eight of 32 pixels.
        (jnp.array([[1.0, 0, 0.5], [0, 1, 0]]), lambda image: np.pad(image[8:], BELOW)),
    ],
)  # fmt: skip
def test_warp_equals_the_exact_transformation(matrix, expected):
    image = images(1)[0]
    np.testing.assert_allclose(warp(image, matrix), expected(np.array(image)), atol=1e-5)


@pytest.mark.parametrize("degrees", [0, 7, 90, 155])
def test_products_sample_as_gathers_do(degrees):
    """Of 8-bit images, also where points lie outside, and from numbers that are bfloat16."""
    turn = np.deg2rad(degrees)
    matrix = 1.2 * np.array([[np.cos(turn), np.sin(turn), 0.1], [-np.sin(turn), np.cos(turn), 0]])
    points = augment_lib.source_points(24, 33, jnp.float32(matrix))
    coarse = jnp.round(points * augment_lib.STEPS) / augment_lib.STEPS
    image = np.random.default_rng(0).integers(0, 256, (24, 33, 2)).astype(np.float32) / 255
    gathered = augment_lib.sample(image, coarse)
    np.testing.assert_allclose(augment_lib.sample_by_products(image, points), gathered, atol=1e-6)
    assert (gathered == 0).any()
    fractions = coarse - jnp.floor(coarse)
    np.testing.assert_array_equal(fractions.astype(jnp.bfloat16), fractions)


@pytest.mark.parametrize(
    ("shape", "ranges"),
    [
        ((128, 128, 1), {"rotation": 10.0, "scale": 0.1, "shift": 0.3}),
        ((129, 140, 1), {"rotation": 180.0, "scale": 0.0, "shift": 0.1}),
        ((136, 136, 1), {"rotation": 5.0, "scale": 0.3, "flip_horizontal": True}),
    ],
)
def test_tiles_change_no_bit(shape, ranges):
    """Each reads a window that holds all it needs, also in the extreme and outside the image."""
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32) / 255
    sampled = jax.jit(augment_lib.sample_by_products, static_argnums=2)
    bound = augment_lib.reach(config(**ranges))
    turn, zoom = np.deg2rad(min(ranges["rotation"], 45)), 1 - ranges["scale"]
    turned = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0]]
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = [random_affine(key, config(**ranges)) for key in keys]
    for matrix in [jnp.float32(turned) / zoom, *drawn]:
        points = augment_lib.source_points(*shape[:2], matrix)
        whole = sampled(image, points, np.inf)
        np.testing.assert_array_equal(sampled(image, points, bound), whole)
        assert (whole > 0.5).any()


def test_tiles_take_a_small_part_of_the_operations():
    points = jnp.zeros((256, 256, 2))

    def operations(reach):
        sample = jax.jit(lambda x: augment_lib.sample_by_products(x, points, reach))
        return sample.lower(jnp.zeros((256, 256, 1))).compile().cost_analysis()["flops"]

    assert operations(1.3) < operations(np.inf) / 10


def test_warp_and_its_inverse_give_the_image_back():
    matrix = random_affine(jax.random.key(1), config(rotation=20.0, scale=0.1, shift=0.05))
    image = images(1, 64)[0]
    moved = warp(image, matrix)
    assert float(abs(moved - image).max()) > 0.1
    np.testing.assert_allclose(warp(moved, invert(matrix)), image, atol=0.03)


def test_boxes_move_with_the_image():
    matrix = random_affine(jax.random.key(3), config(rotation=20.0, scale=0.1, shift=0.1))
    image = jnp.zeros((128, 128, 1)).at[40:70, 50:90].set(1.0)
    box = jnp.array([[40 / 128, 50 / 128, 70 / 128, 90 / 128]])
    y, x = np.nonzero(np.array(warp(image, matrix))[..., 0] > 0.5)
    seen = np.array([y.min(), x.min(), y.max() + 1, x.max() + 1]) / 128
    np.testing.assert_allclose(move_boxes(box, matrix)[0], seen, atol=1.5 / 128)


def test_rotation_stays_within_its_bound():
    keys = jax.random.split(jax.random.key(0), 200)
    matrices = jax.vmap(lambda key: random_affine(key, config(rotation=20.0)))(keys)
    degrees = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert 15 < abs(degrees).max() <= 20
    assert degrees.min() < 0 < degrees.max()


def test_flips_happen_to_half_of_the_examples():
    keys = jax.random.split(jax.random.key(0), 400)
    matrices = jax.vmap(lambda key: random_affine(key, config(flip_horizontal=True)))(keys)
    assert (matrices[:, 0, 0] > 0).all()
    assert 150 < (matrices[:, 1, 1] < 0).sum() < 250


def test_an_example_gets_the_same_change_whatever_follows_it_in_the_batch():
    everything = config(rotation=20.0, brightness=0.1, contrast=0.2, gamma=0.2, erase=0.5)
    labels = jnp.zeros(8)
    whole, _ = augment(images(8), labels, jax.random.key(0), everything)
    half, _ = augment(images(8)[:4], labels[:4], jax.random.key(0), everything)
    np.testing.assert_array_equal(whole[:4], half)
    assert float(abs(whole[0] - whole[1]).max()) > 0.01


def test_exposure_stays_in_range_and_changes_levels_only_as_far_as_asked():
    image = jnp.full((8, 8, 1), 0.5)
    keys = jax.random.split(jax.random.key(0), 100)
    brightness = jax.vmap(
        lambda key: augment_lib.random_exposure(image, key, config(brightness=0.1))
    )(keys)
    assert 0.08 < float(abs(brightness - 0.5).max()) <= 0.1 + 1e-6
    strong = config(brightness=1.0, contrast=1.0, gamma=1.0)
    batch, _ = augment(images(), jnp.zeros(4), jax.random.key(0), strong)
    assert 0 <= float(batch.min()) <= float(batch.max()) <= 1


def test_erasing_blacks_out_one_rectangle():
    image = jnp.ones((64, 64, 1))
    black = np.array(augment_lib.random_erase(image, jax.random.key(0), 1.0))[..., 0] == 0
    rows, columns = black.any(axis=1).sum(), black.any(axis=0).sum()
    assert black.sum() == rows * columns
    assert 6 <= rows <= 27
    assert 6 <= columns <= 27
    assert not (augment_lib.random_erase(image, jax.random.key(0), 0.0) == 0).any()


def test_mixup_mixes_images_and_labels_by_the_same_share():
    batch = jnp.stack([jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))])
    mixed, labels = augment(batch, jnp.array([0.0, 1.0]), jax.random.key(0), config(mixup=1.0))
    np.testing.assert_allclose(mixed[:, 0, 0, 0], labels, rtol=1e-6)
    assert 0 < float(labels[0]) < 1


def test_a_mixture_with_what_is_not_labelled_is_not_labelled():
    labels = jnp.array([[0.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    batch = jnp.stack([jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))])
    mixed, labels = augment(batch, labels, jax.random.key(0), config(mixup=1.0))
    np.testing.assert_allclose(mixed[:, 0, 0, 0], labels[:, 0], rtol=1e-6)
    assert 0 < float(labels[0, 0]) < 1
    np.testing.assert_array_equal(labels[:, 1:], -1)
