"""MODEL_CARD.md, generated from the run."""

from typing import Any

from cbam_flax.run_record import Run


def model_card(run: Run, bundle: dict[str, Any]) -> str:
    return "# Model card\n"
