"""Writes config.md, the keys of the config: `python -m docs.list_config`, from the root."""

from pathlib import Path

from cbam_flax.config_keys import KEYS, TEXT, UNITS, Key

HEAD = f"""# The keys of the config

`cbam_flax/config_keys.py` declares every key, and `python -m docs.list_config` writes this page.
Values are checked before anything else is done. `python -m cbam_flax.main --help` prints the same
list.

Set a key with `--config.KEY=VALUE`. A duration has one of the units {", ".join(UNITS)}, as in
`--config.duration.steps=500`. `[1, inf)` is 1 and more, `(0, 1]` leaves out 0; neither takes inf or
nan. Keys with * may change when a run is resumed.
"""


def page() -> str:
    """The text of config.md: a table for each group of keys."""
    text = HEAD
    for group in dict.fromkeys(map(_group, KEYS)):
        text += f"\n## {f'config.{group}' if group else 'The run'}\n\n"
        text += "| key | default | allowed | meaning |\n|---|---|---|---|\n"
        text += "".join(_row(path, key) for path, key in KEYS.items() if _group(path) == group)
    return text


def _group(path: str) -> str:
    return path.rpartition(".")[0]


def _row(path: str, key: Key) -> str:
    allowed = ", ".join(f"`{part}`" for part in key.allowed.split(" | "))
    if key.allowed == TEXT:
        allowed = "text"
    if key.length:
        allowed += f"; length `{key.length}`"
    return f"| `{path}`{'*' * key.may_change} | `{key.shown}` | {allowed} | {key.meaning} |\n"


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(page())
