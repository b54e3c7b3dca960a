"""The command line: a thin shell over the library.

Data goes to standard output, words to standard error; `--json` answers in JSON. The exit code is one of
`lipsmith.errors.ExitCode`. Starting up imports nothing heavy: a command imports what it needs when it runs.
"""

import atexit
import gc
import sys
from collections.abc import Sequence
from typing import NoReturn

from lipsmith.errors import ExitCode


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command in `arguments` (default: the process's own), then end with its exit code."""
    # Python would search all that is left for garbage, several times, before it ends.
    atexit.register(gc.freeze)
    try:
        from lipsmith.cli.app import run

        run(arguments)
    except KeyboardInterrupt:  # before there is a command that could tell it
        sys.exit(ExitCode.INTERRUPTED)
