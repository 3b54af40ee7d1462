"""A checkpoint on a split: exact predictions, then figures, maps and the report.

`evaluate_workdir` is the whole Python interface; what it needs is imported when it is asked for.
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
