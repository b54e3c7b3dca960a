"""What there is to prepare, and what is known about it: who speaks, under which licence, for which split."""

import csv
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from lipsmith.errors import DataError

logger = logging.getLogger(__name__)

SOUND_NAME = "audio.wav"  # beside the pictures of a folder
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mkv", ".mov", ".avi", ".webm", ".flv", ".mpg", ".mpeg", ".m4v", ".ts", ".wmv", ".3gp")
)

# Names of the manifest's columns that other people's lists use, and ours.
_MANIFEST_COLUMNS = {
    "speaker": ("speaker", "speaker_id"),
    "licence": ("licence", "license", "content_licence_guess"),
    "use": ("use",),
    "collection": ("collection", "class"),
    "origin": ("origin", "source", "source_repo", "url"),
    "split": ("split",),
}
_SPLITS = {
    "train": "train",
    "trainval": "train",
    "pretrain": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Source:
    """Something to be cut into clips.

    Attributes:
        path: A video, or a folder of numbered pictures with their sound.
        name: The same relative to its input folder: what the index calls it.
        kind: Which of both.
        facts: Speaker, licence, use, collection, origin and split as far as they are known.
        stated: Those of `facts` that the manifest or the lists say, and folders do not merely suggest.
    """

    path: Path
    name: str
    kind: Literal["video", "pictures"]
    facts: dict[str, str]
    stated: dict[str, str] = field(default_factory=dict)


Facts = Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """A table of footage: `rows` by name without suffix, read from `path`."""

    path: Path
    rows: Mapping[str, Facts]

    def row(self, name: str) -> Facts | None:
        """What is said of a file of this relative name: by all of it, or by its end where just one row has it."""
        stem = _stem(name)
        return self.rows.get(stem) or self._by_end.get(stem)

    @cached_property
    def _by_end(self) -> dict[str, Facts | None]:
        """Every end of every name, from a `/` on; None where several names have it."""
        found: dict[str, Facts | None] = {}
        for name, facts in self.rows.items():
            parts = name.split("/")
            for start in range(1, len(parts)):
                end = "/".join(parts[start:])
                found[end] = None if end in found else facts
        return found


def find_sources(
    inputs: Iterable[Path],
    manifest: Manifest | None = None,
    file_lists: Mapping[str, str] | None = None,
    facts: Facts | None = None,
) -> list[Source]:
    """Videos, and folders of numbered pictures, among `inputs` (files, or folders searched to any depth).

    Args:
        inputs: What was given.
        manifest: See `read_manifest`. What it says nothing about is told from the folders: the speaker is the folder
            that a source lies in, or its own name when it lies in none.
        file_lists: See `read_file_lists`. Without it the first folder of pictures may say the split.
        facts: Licence, use, collection and origin where nothing else says them.

    Raises:
        DataError: An input that does not exist, two sources of the same name, or a manifest or lists that name none of
            the sources.
    """
    found: dict[str, Source] = {}
    unlisted: list[str] = []
    without_split: list[str] = []
    for path, name in _walk(inputs):
        if name in found:
            raise DataError(
                f"{path} and {found[name].path} would both be called {name}: give the folder above them instead."
            )
        stem = _stem(name)
        row = manifest.row(name) if manifest else None
        split = _split_in_lists(stem, file_lists or {})
        unlisted += [name] if manifest and row is None else []
        without_split += [name] if file_lists and not split else []
        stated = _known({**(row or {}), **_known({"split": split})})
        guessed = _facts_from_path(path, stem)
        if not file_lists and not manifest:
            guessed["split"] = _split_of_first_folder(path, stem)
        kind: Literal["video", "pictures"] = "pictures" if path.is_dir() else "video"
        found[name] = Source(path, name, kind, {**(facts or {}), **_known(guessed), **stated}, stated)
    if manifest:
        _require_some(
            len(found),
            unlisted,
            f"the manifest {manifest.path}",
            next(iter(manifest.rows)),
            "their folders name their speakers",
        )
    if file_lists:
        _require_some(
            len(found),
            without_split,
            "the lists of clips",
            next(iter(file_lists)),
            "they count as training footage",
        )
    return list(found.values())


def _known(facts: Facts) -> dict[str, str]:
    return {name: value for name, value in facts.items() if value}


def _require_some(num_found: int, unnamed: list[str], listing: str, example: str, consequence: str) -> None:
    """Refuse a manifest or lists that name nothing of what was found; warn of what they do not name."""
    if unnamed and len(unnamed) == num_found:
        raise DataError(
            f"None of the {num_found} videos or folders is named in {listing}: names are like {example!r} there, and "
            f"like {unnamed[0]!r} in the footage. Give as footage the folder that the names are relative to, or one "
            "below it."
        )
    if unnamed:
        logger.warning(
            "%d of %d videos or folders are not named in %s (the first: %s): %s.",
            len(unnamed),
            num_found,
            listing,
            unnamed[0],
            consequence,
        )


def _walk(inputs: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Paths of sources, each with its name relative to its input."""
    for given in inputs:
        if given.is_file():
            yield given, given.name
        elif given.is_dir():
            for folder, folders, names in os.walk(given):
                folders.sort()
                here = Path(folder)
                if any(name.endswith(".jpg") and name[:-4].isdecimal() for name in names):
                    relative = here.relative_to(given).as_posix()
                    yield here, here.resolve().name if relative == "." else relative
                for name in sorted(names):
                    path = here / name
                    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
                        yield path, path.relative_to(given).as_posix()
        else:
            raise DataError(f"{given} is neither a file nor a folder.")


def read_manifest(path: Path) -> Manifest:
    """Facts about footage from a table (TSV or CSV) with a column `file`.

    Known columns: speaker, licence, use, collection, origin, split (train, validation, test), and the names other
    lists give them (`speaker_id`, `class`, `content_licence_guess` …). Files are matched without the suffix of a video,
    since footage gets remuxed.

    Raises:
        DataError: It cannot be read, or is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() != ".csv" else ","))
    except OSError as error:
        raise DataError(f"The manifest {path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The manifest {path} is no table in UTF-8 ({error}): save it as one.") from error
    if not rows or "file" not in rows[0]:
        raise DataError(f"{path} is not a manifest: it needs a header line with a column named `file`.")
    facts = {}
    for number, row in enumerate(rows, 2):
        if not (row["file"] or "").strip():
            raise DataError(f"Line {number} of {path} names no file.")
        known = {
            ours: next((row[name] for name in names if row.get(name)), "")
            for ours, names in _MANIFEST_COLUMNS.items()
        }
        if known["split"]:
            if known["split"] not in _SPLITS:
                raise DataError(
                    f"Line {number} of {path} has the split {known['split']!r}: train, validation and test are known."
                )
            known["split"] = _SPLITS[known["split"]]
        facts[_stem(row["file"].strip())] = known
    return Manifest(path, facts)


def read_file_lists(folder: Path) -> dict[str, str]:
    """Splits from a folder of lists (`train.txt`, `val.txt`, `test.txt`): name without suffix → split.

    A line names a clip, `video/clip`; what follows after a space is passed over (LRS2's test list has such a column).
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        split = _SPLITS.get(path.stem.lower())
        if split is not None:
            words = (line.split() for line in _lines_of(path))
            found |= {_stem(line[0]): split for line in words if line}
    if not found:
        raise DataError(f"{folder} holds no lists of clips: train.txt, val.txt and test.txt are looked for.")
    return found


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"The list {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The list {path} is no text in UTF-8: save it as such.") from error


def _stem(name: str) -> str:
    """`name` without the suffix of a video; whatever else follows a dot is part of it."""
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path).as_posix()


def _facts_from_path(path: Path, stem: str) -> dict[str, str]:
    parent = Path(stem).parent
    if path.is_dir() and not parent.name:
        return {"speaker": path.resolve().parent.name}
    return {"speaker": parent.name or Path(stem).name, "collection": parent.as_posix().strip(".")}


def _split_in_lists(stem: str, file_lists: Mapping[str, str]) -> str:
    """The split that lists give a source, by the end of its name; empty where they give none."""
    parts = stem.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((file_lists[end] for end in ends if end in file_lists), "")


def _split_of_first_folder(path: Path, stem: str) -> str:
    """The split that the first folder of an imported layout names; empty where it names none."""
    first, *rest = Path(stem).parts
    return _SPLITS.get(first.lower(), "") if rest and path.is_dir() else ""
