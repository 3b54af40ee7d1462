"""What a study is: variants x seeds x folds, each an ordinary run that is judged on sets of images.

A file of `questions/` says in its docstring what it asks and defines `STUDY`.
"""

import dataclasses
import importlib
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cbam_flax import config as config_lib
from cbam_flax import provenance
from cbam_flax.command_line import ConfigFile, parse_flags
from data_prep.cli import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUESTIONS = pathlib.Path(__file__).parent / "questions"
Overrides = Mapping[str, Any]
_ONE_RUN = {"seed", "fold", "evaluate.at_end", *config_lib.FREE_ON_RESUME}


@dataclasses.dataclass(frozen=True)
class Judged:
    """A set of images that runs are judged on.

    Attributes:
        name: in the lines, and in a comparison's `VARIANT@NAME`.
        split: of the data.
        dataset: other prepared data than the run's own, for external validation.
        where: of the images only those with these cells in predictions.csv, as in `{"view": "AP"}`.
        balance: a column of predictions.csv; its values weigh the same within each label, so that
            it says nothing of the label any more.
    """

    name: str
    split: str = "test"
    dataset: str | None = None
    where: Mapping[str, str] = dataclasses.field(default_factory=dict)
    balance: str | None = None

    @property
    def folder(self) -> str:
        """The evaluation folder, which several sets may share."""
        return f"{self.dataset.replace('/', '-')}-{self.split}" if self.dataset else self.split


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An idea, as the difference of two variants: `first` has it and `second` does not.

    Each is `VARIANT` or `VARIANT@JUDGED`; without a set it is the study's first.
    """

    idea: str
    first: str
    second: str


@dataclasses.dataclass(frozen=True)
class Study:
    """Variants x seeds x folds.

    Attributes:
        config: the file in configs/ that all variants start from.
        common: keys of the config that all variants set.
        variants: by name the keys that each sets, and `config` for another file. The value
            `{NAME}` of `init.from_run` is the run of variant NAME with the same seed and
            fold; that variant stands before.
        helpers: variants that only serve others: they are not judged.
        folds: every variant and seed is trained on each of so many folds; 0: on the own splits.
        figures: of `cbam_flax.evaluate.statistics`, all in [0, 1]; the first decides.
        cpu_minutes: of a run, as estimated before: the plan.
    """

    config: str
    variants: Mapping[str, Overrides]
    common: Overrides = dataclasses.field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()
    seeds: Sequence[int] = tuple(range(10))
    folds: int = 0
    judged: Sequence[Judged] = (Judged("test"),)
    helpers: Sequence[str] = ()
    figures: Sequence[str] = ("auroc", "accuracy", "brier")
    cpu_minutes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        flags: of `cbam_flax.main`, but for `--workdir`.
        config: what they mean.
        config_sha256: of `config_hashes`.
        judged: empty for a helper.
        parent: the name of the run that it starts from, or None.
    """

    name: str
    variant: str
    seed: int
    fold: int
    flags: tuple[str, ...]
    config: ConfigDict
    config_sha256: str
    judged: tuple[Judged, ...]
    parent: str | None


def names() -> list[str]:
    """The studies that there are."""
    return sorted(path.stem for path in QUESTIONS.glob("[a-z]*.py"))


def load(name: str) -> tuple[Study, str]:
    """A study and its docstring.

    Raises:
        UserError: there is no such study.
    """
    if name not in names():
        raise UserError(f"there is no study {name!r}; give one of {', '.join(names())}")
    module = importlib.import_module(f"studies.questions.{name}")
    return module.STUDY, module.__doc__ or ""


def runs_of(study: Study, out: pathlib.Path, data_dir: str) -> Iterator[Run]:
    """Every run, with the seeds outermost: whatever is finished is a table of whole seeds.

    Args:
        out: the folder of the workdirs.

    Raises:
        UserError: a variant sets what the config does not take.
    """
    hashes = config_hashes(study)
    for seed in study.seeds:
        for fold in range(max(1, study.folds)):
            end = f"seed{seed}" + f"-fold{fold}" * bool(study.folds)
            for variant, overrides in study.variants.items():
                judged = () if variant in study.helpers else tuple(study.judged)
                parent = parent_of(overrides)
                own = {"seed": seed, "evaluate.at_end": _splits_at_end(judged)}
                own |= {"folds": study.folds, "fold": fold} if study.folds else {}
                own |= {"init.from_run": str(out / f"{parent}-{end}")} if parent else {}
                given = config_flags_of(study, {**overrides, **own}, data_dir)
                yield Run(
                    f"{variant}-{end}",
                    *(variant, seed, fold, given, parse(given)),
                    hashes[variant],
                    judged,
                    f"{parent}-{end}" if parent else None,
                )


def config_hashes(study: Study) -> dict[str, str]:
    """By variant the hash of what its runs share: the keys that are not at their defaults.

    A new key of the config, at its default, changes no hash; neither do paths and seeds.
    """
    default = config_lib.flatten(config_lib.default_config())
    hashes: dict[str, str] = {}
    for variant, overrides in study.variants.items():
        config = config_lib.flatten(parse(config_flags_of(study, overrides, default["data_dir"])))
        shared = {
            key: value
            for key, value in config.items()
            if key not in _ONE_RUN and value != default.get(key)
        }
        if parent := parent_of(overrides):  # not its path, which the flag has
            shared["init.from_run"] = hashes[parent]
        if study.folds:
            shared["folds"] = study.folds
        hashes[variant] = provenance.sha256_of_json(shared)[:16]
    return hashes


def parent_of(overrides: Overrides) -> str | None:
    """The variant that one starts from."""
    found = re.fullmatch(r"\{(.+)\}", str(overrides.get("init.from_run")))
    return found[1] if found else None


def config_flags_of(study: Study, overrides: Overrides, data_dir: str) -> tuple[str, ...]:
    """The flags of `cbam_flax.main` that set the overrides."""
    keys = {**study.common, **overrides, "data_dir": data_dir}
    file = keys.pop("config", study.config)
    return (f"--config={file}", *(f"--config.{key}={value}" for key, value in keys.items()))


def parse(given: Sequence[str]) -> ConfigDict:
    """The config that `cbam_flax.main` makes of these flags."""
    values, argv = flags.FlagValues(), ["studies.run", *given]
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    values["config"].parser = _FromRoot()
    parse_flags(values, argv, needed=("config",))
    return values["config"].value


class _FromRoot(ConfigFile):
    """Finds configs/ beside this package, where the runs are started."""

    def parse(self, path: str) -> ConfigDict:
        return super().parse(str(ROOT / path))


def _splits_at_end(judged: Sequence[Judged]) -> tuple[str, ...]:
    """What main itself evaluates; a helper on validation, so that its end can be seen."""
    own = tuple(dict.fromkeys(one.split for one in judged if one.dataset is None))
    return own or ("validation",)
