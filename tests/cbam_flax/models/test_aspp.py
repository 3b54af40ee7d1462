import jax
import numpy as np

from cbam_flax.models.aspp import AtrousPyramid

X = np.random.default_rng(0).normal(size=(2, 19, 23, 4)).astype(np.float32)


def test_each_branch_reaches_exactly_as_far_as_its_rate():
    """A 3x3 kernel of ones at rate r turns one lit pixel into nine, r apart."""
    x = np.zeros((1, 19, 23, 1), np.float32)
    x[0, 9, 11] = 1
    for branch, rate in enumerate((2, 4, 8), start=1):
        module = AtrousPyramid()
        params = jax.tree.map(np.zeros_like, module.init(jax.random.key(0), x)["params"])
        params[f"atrous{branch}"]["kernel"] += 1
        params["project"]["kernel"] += 1
        lit = np.argwhere(np.asarray(module.apply({"params": params}, x))[0, :, :, 0] > 0)
        expected = [(9 + i * rate, 11 + j * rate) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        assert sorted(map(tuple, lit.tolist())) == expected


def test_branches_are_rectified_concatenated_and_projected(random_variables):
    variables = random_variables(AtrousPyramid(dilations=(1, 3)), X)
    params = variables["params"]
    height, width = X.shape[1:3]
    branches = []
    for name, rate in (("atrous1", 1), ("atrous2", 3)):
        padded = np.pad(X, ((0, 0), (rate, rate), (rate, rate), (0, 0)))
        taps = sum(
            padded[:, i * rate : i * rate + height, j * rate : j * rate + width]
            @ params[name]["kernel"][i, j]
            for i in range(3)
            for j in range(3)
        )
        branches.append(np.maximum(taps + params[name]["bias"], 0))
    project = params["project"]
    expected = np.concatenate(branches, -1) @ project["kernel"][0, 0] + project["bias"]
    output = AtrousPyramid(dilations=(1, 3)).apply(variables, X)
    np.testing.assert_allclose(output, np.maximum(expected, 0), atol=1e-5)


def test_image_level_branch_adds_the_same_number_everywhere(random_variables):
    module = AtrousPyramid(image_level=True)
    variables = random_variables(module, X)
    params = variables["params"]
    assert params["project"]["kernel"].shape == (1, 1, 16, 4)
    for branch in ("atrous1", "atrous2", "atrous3"):
        params[branch] = jax.tree.map(np.zeros_like, params[branch])
    level = X.mean((1, 2)) @ params["image_level"]["kernel"][0, 0] + params["image_level"]["bias"]
    mixed = (
        np.maximum(level, 0) @ params["project"]["kernel"][0, 0, 12:] + params["project"]["bias"]
    )
    expected = np.broadcast_to(np.maximum(mixed, 0)[:, None, None], X.shape)
    assert expected.max() > 0
    np.testing.assert_allclose(module.apply(variables, X), expected, atol=1e-5)
