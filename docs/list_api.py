"""Writes api.md, the Python interface: `python -m docs.list_api`, from the root."""

import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbam_flax
from cbam_flax.predict import Predictor

HEAD = """# The Python interface

These functions do what the commands of their names do, in a notebook or a program. Nothing else is
public. `python -m docs.list_api` writes this page from their docstrings.
[tutorial.ipynb](tutorial.ipynb) shows them on synthetic radiographs.

```python
import cbam_flax
from configs import rsna

config = rsna.get_config()
config.data_dir = "data"
metrics = cbam_flax.train(config, "runs/rsna")
metrics["test"]["auroc"]  # {"value": ..., "low": ..., "high": ...}

cbam_flax.evaluate("runs/rsna", "validation", criterion="specificity=0.9")
cbam_flax.load_bundle("runs/rsna_bundle").predict(["radiograph.dcm"])  # float32, (1,)
```

`import cbam_flax` imports neither JAX nor TensorFlow; the functions do, when they are called.
With the extra `inference` alone, `load_bundle("bundle")` works, with ONNX Runtime. Preparing data,
auditing them and exporting a bundle are commands ([install.md](install.md#commands)). To set a
length in other units than the config has, write `config.duration = duration(steps=500)`, after
`from cbam_flax.config import duration`, as the files in configs/ do.
"""
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cbam_flax.train": cbam_flax.train,
    "cbam_flax.evaluate": cbam_flax.evaluate.evaluate,
    "cbam_flax.load_bundle": cbam_flax.load_bundle,
    "Predictor.predict": Predictor.predict,
}
SECTION = re.compile(r"^(Args|Returns|Raises):\n((?: {4}.*(?:\n|\Z))+)", re.MULTILINE)


def page() -> str:
    """The text of api.md: a section for each function."""
    text = HEAD
    for name, function in FUNCTIONS.items():
        text += f"\n## {name}\n\n```python\n{_signature(name, function)}\n```\n\n"
        text += f"{SECTION.sub(_section, inspect.getdoc(function) or '')}\n"
    return text


def _signature(name: str, function: Callable[..., Any]) -> str:
    """As the source has it, with the name by which it is called."""
    source = textwrap.dedent(inspect.getsource(function))
    head = source[: source.index(':\n    """')]
    return head.replace(f"def {function.__name__}(", f"{name}(").replace("(self, ", "(")


def _section(found: re.Match[str]) -> str:
    """A section of a docstring with its names as a list."""
    title, body = found[1], textwrap.dedent(found[2])
    if title != "Returns":
        body = re.sub(r"^(\S.*?): ", r"- `\1`: ", body, flags=re.MULTILINE)
    return f"**{title}**\n\n{body}"


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(page(), encoding="utf-8")
