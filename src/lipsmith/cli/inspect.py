"""`lipsmith inspect`: what a file says about its own making."""

from pathlib import Path
from typing import Annotated

import typer

from lipsmith.cli.options import JsonAnswer
from lipsmith.cli.output import warn, write_answer, write_json
from lipsmith.errors import ExitCode


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A video or image file.", show_default=False)],
    as_json: JsonAnswer = False,
) -> None:
    """Read back the Content Credentials and the container tag of FILE.

    Ends with code 11 where the Content Credentials do not verify, because FILE was changed since or is damaged.
    """
    from lipsmith.provenance.inspect import inspect as read_back

    inspection = read_back(file)
    if as_json:
        write_json(inspection.to_dict())
    else:
        write_answer(inspection.to_text())
    if inspection.is_unverified:
        warn(f"The Content Credentials of {file} do not verify: trust neither them nor the file.")
        raise typer.Exit(ExitCode.UNVERIFIED)
