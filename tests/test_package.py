"""The package as a whole: metadata, pinned versions, and documents that say only what is there."""

import importlib.metadata
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lipsmith
from lipsmith.cli.app import app
from lipsmith.errors import ExitCode
from lipsmith.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASSETS = Path(lipsmith.__file__).parent / "assets"


def test_the_version_stands_in_one_place() -> None:
    assert lipsmith.__version__ == PROJECT["version"] == importlib.metadata.version("lipsmith")


@pytest.mark.parametrize("name", lipsmith.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(lipsmith, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lipsmith.nonsense


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License")
    assert text.count("\n") == 201 and "9. Accepting Warranty" in text


def pinned() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements(name: str, extras: set[str], seen: set[str]) -> Iterator[str]:
    """Names of everything that the installed distribution `name` needs here, with `extras`."""
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        needed = canonicalize_name(requirement.name)
        key = f"{needed}[{','.join(sorted(requirement.extras))}]"
        if key not in seen:
            seen.add(key)
            yield needed
            yield from requirements(needed, set(requirement.extras), seen)


def test_everything_that_is_installed_is_pinned() -> None:
    try:
        needed = set(requirements("lipsmith", {"dev"}, set()))
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    assert len(needed) > 50
    assert needed - {"lipsmith"} <= set(pinned())


def test_torch_is_pinned_without_a_build() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", pinned()["torch"])


def test_the_demo_speech_is_small_and_documented() -> None:
    speech = ASSETS / "speech.flac"
    assert 50_000 < speech.stat().st_size < 200_000
    assert "espeak-ng -v en-us+f3" in (ASSETS / "README.md").read_text()
    assert "I never said these words" in (ASSETS / "speech.ssml").read_text()


def command_lines(document: Path) -> list[str]:
    """Lines of code in a document that call `lipsmith`, continued ones joined, and such calls between backticks."""
    text = re.sub(r"\\\n\s*", "", document.read_text())
    blocks = re.findall(r"^(?: {4})(?:\.venv/bin/)?(lipsmith [^\n#>]+)", text, re.M)
    inline = re.findall(r"`(?:\.venv/bin/)?(lipsmith [^`]+)`", text)
    return [line.strip() for line in (*blocks, *inline)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documented_commands_and_options_exist(document: Path) -> None:
    for line in command_lines(document):
        command = typer.main.get_command(app)
        for word in shlex.split(line.replace("'", '"'))[1:]:
            if word.startswith("-") and word != "-":
                known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
                assert word in known, f"{line}: there is no option {word}"
            elif word.islower() and word in getattr(command, "commands", {}):
                command = command.get_command(None, word)
            elif getattr(command, "commands", None) and word not in ("COMMAND", "…"):
                pytest.fail(f"{line}: there is no command {word}")


def test_the_readme_has_commands() -> None:
    assert len(command_lines(ROOT / "README.md")) >= 8


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_documented_recipes_exist() -> None:
    for document in DOCUMENTS:
        for name in re.findall(r"recipes/[\w-]+\.yaml", document.read_text()):
            assert (ROOT / name).is_file(), f"{document.name} names {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_load(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M) or target == "and"


def test_exit_codes_are_documented() -> None:
    text = (ROOT / "docs/reference/command-line.md").read_text()
    listed = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", text, re.M)}
    assert listed == {code.name: code.value for code in ExitCode}
