import jax
import jax.numpy as jnp
import pytest

from cbam_flax.models import create_model, table


def stages(size=224, **settings):
    rows = table.stage_table(create_model(settings), size, size)
    return {row.name: row for row in rows}


def test_maps_halve_and_the_pyramids_see_a_quarter_and_a_sixteenth():
    rows = stages()
    assert list(rows) == list(table.STAGES)
    assert rows["block1"].output == (224, 224, 64)
    assert rows["pool1"].output == (112, 112, 64)
    assert rows["context1"].output == (56, 56, 128)
    assert rows["context2"].output == (14, 14, 256)
    assert rows["logit"].output == (1,)


def test_totals_at_224():
    described, notebook = stages().values(), stages(preset="notebook").values()
    assert sum(row.parameters for row in described) == 16_964_465
    assert sum(row.parameters for row in notebook) == 17_184_981
    assert [sum(row.statistics for row in rows) for rows in (described, notebook)] == [2304, 2304]
    assert sum(row.flops for row in described) == pytest.approx(16.949e9, rel=1e-4)


def test_flops_by_hand():
    """Stage by stage for maps of 32 x 32 and 64 channels, two FLOPs per multiply-add."""
    rows = stages(32, image_level=True)
    pixels, c = 32 * 32, 64
    conv1, conv2, spatial = 9 * c, 9 * c * c, 7 * 7 * 2
    mlp = 2 * (c * 4 + 4 * c)
    assert rows["block1"].flops == 2 * (pixels * (conv1 + conv2 + spatial) + mlp)
    assert rows["pool1"].flops == 2 * 16 * 16 * 2 * c * c
    c = 128
    assert rows["context1"].flops == 2 * (8 * 8 * (3 * 9 * c * c + 4 * c * c) + c * c)
    assert rows["hidden"].flops == 2 * (2 * 2 * 256) * 256


@pytest.mark.parametrize(
    "settings",
    [{}, {"preset": "notebook"}, {"attention": "se", "pooling": "max", "head": "gap"}],
    ids=str,
)
def test_flops_agree_with_the_compiler(settings):
    """XLA leaves out taps on zero padding and adds elementwise work: little, at 1024 pixels."""
    model = create_model(settings, "any")
    images = jax.ShapeDtypeStruct((1, 1024, 1024, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    counted = jax.jit(model.apply).lower(variables, images).cost_analysis()["flops"]
    assert sum(row.flops for row in stages(1024, **settings).values()) == pytest.approx(
        counted, rel=0.01
    )


def test_command_prints_rows_and_total(monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["table", "--image_size=64", "preset=notebook", "dilations=1,2"]
    )
    table.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| block1 | 64 x 64 x 64 |")
    assert lines[-3].startswith("| total |")
    assert lines[-3].endswith("| 100.0% |")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("attention", "KEY=VALUE"),
        ("attention=all", "model.attention is 'all'"),
        ("colour=red", "unknown keys: colour"),
        ("--image_size=20", "at least 28"),
    ],
)
def test_command_refuses_in_words(argument, words, monkeypatch):
    monkeypatch.setattr("sys.argv", ["table", argument])
    with pytest.raises(table.cli.UserError, match=words):
        table.main()
