"""The flags of `evaluate` and `export` that say which runs score, and how."""

import argparse

from data_prep.cli import UserError


def add_scoring_flags(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Adds them; returns the group of --workdir and --ensemble, of which one must be given."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", help="folder of the run")
    what.add_argument(
        "--ensemble",
        nargs="+",
        metavar="RUN",
        help="runs that score together; their evaluation is in RUN/evaluation/ensemble-NAME of the "
        "first",
    )
    parser.add_argument(
        "--combine",
        choices=("logit", "probability"),
        help="what --ensemble takes the mean of, as in --combine=probability (default: logit)",
    )
    parser.add_argument(
        "--tta",
        choices=("flip",),
        help="test-time augmentation, as in --tta=flip: the mean logit of the image and its mirror "
        "image",
    )
    return what


def check_scoring_flags(args: argparse.Namespace) -> None:
    """Raises UserError for an ensemble of one, and for --combine without an ensemble."""
    if args.ensemble and len(args.ensemble) < 2:
        raise UserError("--ensemble needs at least two runs; for one give --workdir")
    if args.combine and not args.ensemble:
        raise UserError("--combine is for --ensemble only; leave it out")
