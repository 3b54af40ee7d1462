"""Configurations: `python -m cbam_flax.main --config=configs/NAME.py`."""
