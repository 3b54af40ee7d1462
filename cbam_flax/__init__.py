"""Train, evaluate and export a CBAM-ResNet chest-radiograph classifier in JAX / Flax."""

import data_prep  # noqa: F401 - from here on Ctrl-C ends a command with one line

__version__ = "0.1.0"
