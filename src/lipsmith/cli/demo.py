"""`lipsmith demo`: the main job with a face and a voice that are at hand everywhere."""

import tempfile
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from lipsmith.cli.options import Force, JsonReport, Model
from lipsmith.cli.output import say
from lipsmith.errors import OutputError, RuntimeUnavailableError


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The MP4 to write.")] = Path(
        "lipsmith-demo.mp4"
    ),
    model: Model = "default",
    force: Force = False,
    as_json: JsonReport = False,
) -> None:
    """Make a public-domain portrait say a few synthetic words."""
    from lipsmith.cli.sync import report, run
    from lipsmith.pipeline import SyncOptions

    with tempfile.TemporaryDirectory(prefix="lipsmith-demo-") as folder, as_file(_speech()) as speech:
        portrait = Path(folder) / "astronaut.png"
        _write_portrait(portrait)
        _make_folder(output.parent)
        done = run(portrait, speech, output, model=model, options=SyncOptions(overwrite=force))
    report(done, as_json)
    say(f"The result is in {done.output.resolve()}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be made: {error.strerror}. Choose another place with --output."
        ) from error


def _speech() -> Traversable:
    return files("lipsmith.assets").joinpath("speech.flac")


def _write_portrait(path: Path) -> None:
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"The demo's portrait comes with scikit-image, which cannot be imported ({error}). "
            "Install it with: pip install 'lipsmith[demo]'"
        ) from error
    import cv2

    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR))[1].tobytes())
