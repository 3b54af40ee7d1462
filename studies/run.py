"""Carries out a study: its runs, side by side, and a line of figures for each.

    python -m studies.run ablation --out=runs/ablation --data_dir=data

Every run is an ordinary workdir in --out, made by `python -m cbam_flax.main`. The same command
again goes on where it was stopped, also after kill -9: what has its line in
studies/results/STUDY.csv is done, evaluations that are there are not made again, and an unfinished
run continues as main does. A run that fails is told and the rest goes on.
`python -m studies.report` makes docs/results.md from the lines.
"""

import argparse
import os
import pathlib

from cbam_flax import logs
from data_prep import cli
from data_prep.files import locks

GIB_A_RUN = 3  # of memory; one at 28 px takes 2


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", help="a file of studies/questions/, without .py")
    parser.add_argument("--out", required=True, help="folder of the runs")
    parser.add_argument("--data_dir", default="data", help="prepared data (default: data)")
    parser.add_argument(
        "--workers",
        type=int,
        help=f"runs side by side (default: one a core, with {GIB_A_RUN} GiB each; on a GPU give 1)",
    )
    parser.add_argument("--results", help="folder of the lines (default: studies/results)")
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        raise cli.UserError(f"--workers={args.workers} is not at least 1; leave it out")
    environment = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # of this process: an accelerator is the runs' own
    logs.quiet_tensorflow()
    # Here, so that --help returns at once.
    from studies import lines, runner

    out = pathlib.Path(args.out).absolute()
    results = pathlib.Path(args.results).absolute() if args.results else lines.RESULTS
    data_dir = args.data_dir if "://" in args.data_dir else os.path.abspath(args.data_dir)
    with locks.hold(out / ".study.lock", "used"):
        done, failed = runner.Runner(
            args.study, out, data_dir, results, args.workers or default_workers(), environment
        ).carry_out()
    if failed:
        raise cli.UserError(
            f"{len(failed)} of {done} runs failed ({', '.join(failed[:5])}"
            f"{' and more' if failed[5:] else ''}); mend what their logs in {out / 'logs'} say and "
            f"run the same command again"
        )
    print(f"the lines are in {lines.path_of(args.study, results)}")


def default_workers() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cli.cores(), memory // (GIB_A_RUN << 30)))


def command() -> None:
    cli.run(main, sigterm=cli.INTERRUPTED)


if __name__ == "__main__":
    command()
