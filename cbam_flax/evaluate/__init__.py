"""Evaluates a checkpoint on a split: exact predictions, metrics, saliency maps, the report.

The Python interface is `evaluate_workdir`; its dependencies are imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cbam_flax.evaluate.run import evaluate_workdir
else:

    def __getattr__(name: str) -> Any:
        if name != "evaluate_workdir":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from cbam_flax.evaluate.run import evaluate_workdir

        return evaluate_workdir


__all__ = ["evaluate_workdir"]
