"""The parser of the commands with a `--config`: absl's flags, with errors in one sentence."""

import re
import runpy
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from cbam_flax import config as config_lib
from cbam_flax.config_keys import KEYS, SWITCH, TEXT
from data_prep.cli import UserError, as_started


def parser(module_name: str, needed: Sequence[str]) -> Callable[[list[str]], list[str]]:
    """A `flags_parser` for absl.app.run; it leaves a checked config in the flag `config`.

    --help exits with 0. What the user can mend is raised as a `UserError`.

    Args:
        module_name: the command, whose docstring and flags --help shows.
        needed: flags that must be given.
    """
    flags.FLAGS["config"].parser = ConfigFile()

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-h", "-help"} & set(argv[1:]):
            module = sys.modules[module_name]
            text = f"{module.__doc__}\nflags:\n{flags.FLAGS.module_help(module)}\n\n{key_help()}"
            print(as_started(text))
            sys.exit(0)
        return parse_flags(flags.FLAGS, argv, needed)

    return parse


def parse_flags(values: flags.FlagValues, argv: list[str], needed: Sequence[str]) -> list[str]:
    """Parses and checks the flags, of which `config` is one.

    Raises:
        UserError: a flag, an override or the config is wrong; the message says which and how.
    """
    try:
        rest = values(argv)
    except (AttributeError, KeyError, IndexError) as error:  # ml_collections: no such key
        key, *hint = re.sub(r"\\n|[\\'\"]", " ", str(error)).split() or ["of an empty name"]
        hint = hint or ["docs/config.md", "lists", "all", "keys"]
        raise UserError(f"the config has no key {key}; {' '.join(hint)}") from error
    except (flags.Error, SyntaxError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{' '.join(str(error).split())}; see --help") from error
    if rest[1:]:
        raise UserError(f"{rest[1]!r} is not a flag; write values as --name=VALUE")
    for flag in needed:
        if values[flag].value is None:
            raise UserError(f"--{flag} is needed, as in the example that --help shows")
    config = values["config"].value
    config_lib.replace_durations(config, config_flags.get_override_values(values["config"]))
    config_lib.check(config)
    return rest


class ConfigFile(flags.ArgumentParser):
    """Reads `FILE` or `FILE:ARGUMENT`; what is wrong in the file is told with its line.

    Where there is no folder configs/, as after `pip install`, configs/NAME.py is the package's own.
    """

    def parse(self, path: str) -> ConfigDict:
        file, *argument = path.split(":", 1)
        if Path(file).parent == Path("configs") and not Path("configs").exists():
            file = str(Path(__file__).parents[1] / file)
        if not Path(file).is_file():
            raise UserError(f"there is no config file {file}; configs/ holds some")
        try:
            get_config = runpy.run_path(file).get("get_config")
            if get_config is None:
                raise UserError(f"{file} lacks a function get_config; configs/ holds examples")
            config = get_config(*argument)
        except UserError:
            raise
        except Exception as error:  # the file is the user's code, which can raise anything
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{_place(error, file)}: {what}") from error
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"get_config of {file} returns a {type(config).__name__}; return the ConfigDict "
                f"of default_config()"
            )
        return config.lock()


def _place(error: Exception, file: str) -> str:
    """The file and, if the error arose in it, the line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def key_help() -> str:
    """The keys of the config for --help: default, what is allowed, meaning."""
    lines = ["keys of the config (docs/config.md), set by --config.KEY=VALUE:"]
    for path, key in KEYS.items():
        allowed = "" if key.allowed in (TEXT, SWITCH) else f"{key.allowed}  "
        text = f"{f'{path} = {key.shown}':<42}{allowed}{key.meaning}"
        lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent=" " * 44)
    return "\n".join(lines)
