"""The cases of benchmarks/faults.py: each command in a new place, and over an earlier result."""

import functools
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence

from benchmarks.fault_runs import ROOT, Bench, Case


def make_cases(bench: Bench) -> dict[str, Callable[[], Case]]:
    """By name, the commands on tiny data, each in a new place and over an earlier result.

    What lies in a case's folder before is made, by the commands themselves, when it is called.
    """
    python = (sys.executable, "-m")
    films = "raw/stage_2_train_images"
    prepare = (
        *(*python, "data_prep.prepare", "--dataset=rsna", "--raw=raw", "--data_dir=data"),
        "--mapping=raw/pneumonia-challenge-dataset-mappings_2018.json",
        *("--image_size=28", "--workers=1"),
    )
    main = (
        *(*python, "cbam_flax.main", "--workdir=run"),
        f"--config={ROOT}/configs/demo.py:attention=none,pool=max,context=none,head=gap",
        *("--config.data_dir=data", "--config.image_size=28", "--config.batch_size=8"),
        "--config.model.width=0.0625",
        *("--config.duration.steps=4", "--config.evaluate.every.steps=2"),
        *("--config.checkpoint.every.steps=1", "--config.log_every_steps=1"),
        "--config.evaluate.at_end=()",
    )
    evaluate = (*python, "cbam_flax.evaluate", "--workdir=run", "--resamples=50", "--explained=0")
    export = (*python, "cbam_flax.export", "--workdir=run", "--out=bundle")
    predict = (
        *(*python, "cbam_flax.predict", "--bundle=bundle", "--out=predictions", "--workers=1"),
    )

    def synthetic(seed: int) -> tuple[str, ...]:
        return (*python, "data_prep.synthetic", "--out=raw", "--images=60", f"--seed={seed}")

    def after(start: pathlib.Path, *lines: Sequence[str]) -> pathlib.Path:
        folder = bench.copy(start)
        for line in lines:
            bench.must(line, folder)
        shutil.rmtree(folder / "tmp")
        return folder

    @functools.cache
    def raw() -> pathlib.Path:
        empty = bench.scratch / "empty"
        empty.mkdir()
        return after(empty, synthetic(0))

    @functools.cache
    def data() -> pathlib.Path:
        return after(raw(), prepare)

    def changed() -> pathlib.Path:
        folder = bench.copy(data())
        shutil.rmtree(folder / "raw")
        return after(folder, synthetic(1))

    @functools.cache
    def run() -> pathlib.Path:
        return after(data(), main)

    def half() -> pathlib.Path:
        """Killed when the save of the last step begins."""
        calls = bench.must(main, bench.copy(data())).calls
        last = next(n for n, (_, path) in enumerate(calls, 1) if "/checkpoints/4" in path)
        folder = bench.copy(data())
        bench.run(main, folder, "KILL", last)
        shutil.rmtree(folder / "tmp")
        return folder

    @functools.cache
    def evaluated() -> pathlib.Path:
        return after(run(), (*evaluate, "--criterion=sensitivity=0.9"))

    @functools.cache
    def exported() -> pathlib.Path:
        third = after(evaluated(), (*evaluate, "--step=3", "--name=third"))
        return after(third, (*export, "--step=3", "--evaluation=third"))

    def predicted() -> pathlib.Path:
        one = min((exported() / films).iterdir())
        return after(exported(), (*predict, f"{films}/{one.name}"))

    def case(
        name: str, start: Callable[[], pathlib.Path], line: Sequence[str], outputs: Sequence[str]
    ) -> Case:
        return Case(name, start(), line, outputs)

    records = ("data/rsna_pneumonia/28px/1.0.0", "data/rsna_pneumonia/.config")
    evaluation = ("run/evaluation/test",)
    youden = (*evaluate, "--criterion=youden")
    all_films = (*predict, films)
    table: dict[str, tuple[Callable[[], pathlib.Path], Sequence[str], Sequence[str]]] = {
        "prepare": (raw, prepare, records),
        "prepare --overwrite": (changed, (*prepare, "--overwrite"), records),
        "main": (data, main, ("run",)),
        "main, continued": (half, main, ("run",)),
        "evaluate": (run, youden, evaluation),
        "evaluate, again": (evaluated, youden, evaluation),
        "export": (evaluated, export, ("bundle",)),
        "export, again": (exported, export, ("bundle",)),
        "predict": (exported, all_films, ("predictions",)),
        "predict, again": (predicted, all_films, ("predictions",)),
    }
    return {name: functools.partial(case, name, *parts) for name, parts in table.items()}
