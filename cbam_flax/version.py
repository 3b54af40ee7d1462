"""The version of this project, also in pyproject.toml, checkpoints, reports and bundles."""

__version__ = "0.1.0"
