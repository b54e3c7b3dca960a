"""`lipsmith inspect`: what a file says about its own making."""

from pathlib import Path
from typing import Annotated

import typer

from lipsmith.cli.options import JsonAnswer
from lipsmith.cli.output import write_answer, write_json


def inspect(
    file: Annotated[Path, typer.Argument(help="A video or image file.", show_default=False)],
    as_json: JsonAnswer = False,
) -> None:
    """Read back the Content Credentials and the container tag of FILE."""
    from lipsmith.provenance.inspect import inspect as read_back

    inspection = read_back(file)
    if as_json:
        write_json(inspection.to_dict())
    else:
        write_answer(inspection.to_text())
