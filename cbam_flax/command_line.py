"""The parser of the commands with a `--config`: absl's flags, with errors in one sentence."""

import re
import sys
from collections.abc import Callable, Sequence

from absl import flags

from data_prep import cli


def parser(module_name: str, needed: Sequence[str]) -> Callable[[list[str]], list[str]]:
    """A `flags_parser` for absl.app.run: --help exits with 0, a wrong flag with one line and 2.

    Args:
        module_name: the command, whose docstring and flags --help shows.
        needed: flags that must be given.
    """

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-h", "-help"} & set(argv[1:]):
            module = sys.modules[module_name]
            print(f"{module.__doc__}\nflags:\n{flags.FLAGS.module_help(module)}")
            sys.exit(0)
        try:
            rest = flags.FLAGS(argv)
            if rest[1:]:
                raise cli.UserError(f"{rest[1]!r} is not a flag; write values as --name=VALUE")
            for flag in needed:
                if flags.FLAGS[flag].value is None:
                    raise cli.UserError(f"--{flag} is needed, as in the example that --help shows")
            return rest
        except (AttributeError, KeyError) as error:  # ml_collections: no such key
            key, *hint = re.sub(r"\\n|[\\'\"]", " ", str(error)).split()
            print(
                f"error: the config has no key {key}; {' '.join(hint) or 'see configs/'}",
                file=sys.stderr,
            )
        except (flags.Error, OSError, TypeError, ValueError, cli.UserError) as error:
            print(f"error: {' '.join(str(error).split())}; see --help", file=sys.stderr)
        sys.exit(2)

    return parse
