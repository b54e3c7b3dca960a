"""What there is to prepare, and what is known about it: who speaks, under which licence, for which split."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lipsmith.errors import DataError

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
    """

    path: Path
    name: str
    kind: Literal["video", "pictures"]
    facts: dict[str, str]


Facts = Mapping[str, str]


def find_sources(
    inputs: Iterable[Path],
    manifest: Mapping[str, Facts] | None = None,
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
        DataError: An input that does not exist, or two sources of the same name.
    """
    found: dict[str, Source] = {}
    for path, name in _walk(inputs):
        if name in found:
            raise DataError(
                f"{path} and {found[name].path} would both be called {name}: give the folder above them instead."
            )
        stem = name if path.is_dir() else _stem(name)
        known = {
            **_facts_about(path, stem, manifest or {}),
            **_split_of(path, stem, file_lists or {}, bool(manifest)),
        }
        kind: Literal["video", "pictures"] = "pictures" if path.is_dir() else "video"
        merged = {**(facts or {}), **{field: value for field, value in known.items() if value}}
        found[name] = Source(path, name, kind, merged)
    return list(found.values())


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


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Facts about footage from a table (TSV or CSV) with a column `file`: name without suffix → column → value.

    Known columns: speaker, licence, use, collection, origin, split (train, validation, test), and the names other
    lists give them (`speaker_id`, `class`, `content_licence_guess` …). Files are matched without their suffix, since
    footage gets remuxed.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() != ".csv" else ","))
    if not rows or "file" not in rows[0]:
        raise DataError(f"{path} is not a manifest: it needs a header line with a column named `file`.")
    facts = {}
    for number, row in enumerate(rows, 2):
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
        facts[_stem(row["file"])] = known
    return facts


def read_file_lists(folder: Path) -> dict[str, str]:
    """Splits from a folder of lists (`train.txt`, `val.txt`, `test.txt`): name without suffix → split.

    A line names a clip, `video/clip`; what follows after a space is passed over (LRS2's test list has such a column).
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        split = _SPLITS.get(path.stem.lower())
        if split is not None:
            words = (line.split() for line in path.read_text().splitlines())
            found |= {_stem(line[0]): split for line in words if line}
    if not found:
        raise DataError(f"{folder} holds no lists of clips: train.txt, val.txt and test.txt are looked for.")
    return found


def _stem(name: str) -> str:
    return Path(name).with_suffix("").as_posix()


def _facts_about(path: Path, stem: str, manifest: Mapping[str, Facts]) -> Facts:
    """What the manifest says of a source, or else its path."""
    return manifest_row(stem, manifest) or _facts_from_path(path, stem)


def manifest_row(name: str, manifest: Mapping[str, Facts]) -> Facts | None:
    """What a manifest says of a file of this relative name: by all of it, or by its end where just one row has it."""
    stem = _stem(name)
    if stem in manifest:
        return manifest[stem]
    ending = [facts for listed, facts in manifest.items() if listed.endswith(f"/{stem}")]
    return ending[0] if len(ending) == 1 else None


def _facts_from_path(path: Path, stem: str) -> dict[str, str]:
    parent = Path(stem).parent
    if path.is_dir() and not parent.name:
        return {"speaker": path.resolve().parent.name}
    return {"speaker": parent.name or Path(stem).name, "collection": parent.as_posix().strip(".")}


def _split_of(path: Path, stem: str, file_lists: Mapping[str, str], has_manifest: bool) -> dict[str, str]:
    """The split that lists give a source (by the end of its name), or the first folder of an imported layout."""
    parts = Path(stem).parts
    for start in range(len(parts)):
        split = file_lists.get("/".join(parts[start:]))
        if split:
            return {"split": split}
    if (
        path.is_dir()
        and not file_lists
        and not has_manifest
        and len(parts) > 1
        and parts[0].lower() in _SPLITS
    ):
        return {"split": _SPLITS[parts[0].lower()]}
    return {}
