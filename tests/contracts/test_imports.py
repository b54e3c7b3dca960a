"""Starting up loads nothing heavy: neither `import lipsmith` nor the command line's help."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "cv2",
    "av",
    "openvino",
    "numpy",
    "skimage",
    "scipy",
    "c2pa",
    "mtcnn",
    "rich.console",
)


def loaded_after(statement: str) -> set[str]:
    """Heavy modules that a fresh interpreter holds after `statement`."""
    probe = f"import sys\n{statement}\nprint('loaded:', *(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


def test_the_probe_sees_what_is_loaded() -> None:
    assert loaded_after("import numpy") == {"numpy"}


def test_importing_the_package_is_light() -> None:
    assert loaded_after("import lipsmith") == set()


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["sync", "--help"], ["train", "--help"], ["weights", "--help"]]
)
def test_help_is_light(arguments: list[str]) -> None:
    statement = (
        "from lipsmith.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    assert loaded_after(statement) <= {"rich.console"}  # the help pages are drawn by Rich
