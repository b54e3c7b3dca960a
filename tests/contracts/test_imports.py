"""Starting up loads nothing heavy: neither `import lipsmith` nor the command line's help."""

import ast
import subprocess
import sys

import pytest

from lipsmith.cli.app import COMMANDS, load_command

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
    assert loaded_after(statement) == set()


def test_listing_the_commands_imports_none_of_them() -> None:
    statement = (
        "from lipsmith.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('lipsmith.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", f"import sys\n{statement}"], capture_output=True, text=True)
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == [
        "lipsmith.cli.app",
        "lipsmith.cli.failures",
        "lipsmith.cli.output",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_the_command_says(name: str) -> None:
    first_paragraph = load_command(name).help.split("\n\n")[0]
    assert " ".join(first_paragraph.split()) == COMMANDS[name][1]
