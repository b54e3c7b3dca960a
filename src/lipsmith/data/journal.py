"""What a prepared folder knows of its own making: which sources are done, by which rules, and who is at it.

`sources.jsonl` has a line for each source that is done, written after its lines in the index and in the list of what
was left out. Whatever was cut off in between — by a kill, by a full disk — is removed before it is done anew.
"""

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path

from lipsmith.data.clips import CLIPS_FOLDER, DROPPED_NAME, INDEX_NAME, read_index
from lipsmith.data.cutting import Outcome, PrepareOptions
from lipsmith.data.shards import SHARDS_FOLDER
from lipsmith.data.storage import room_for, write_whole
from lipsmith.errors import DataError, OutputError

logger = logging.getLogger(__name__)

SOURCES_NAME = "sources.jsonl"
OPTIONS_NAME = "prepare.json"


@contextlib.contextmanager
def alone_in(folder: Path, command: str = "prepare") -> Iterator[None]:
    """Hold `folder` against other runs of `command`; a run that was killed holds nothing. Raises `OutputError`."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with room_for(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"Another `lipsmith {command}` is writing {folder}: wait for it, or stop it."
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def recover(folder: Path) -> set[str]:
    """Remove what a run that was cut off left half-done; the names of the sources that are done.

    Lines that a broken disk has damaged are removed, and what they may have been about is done anew.
    """
    for part in (CLIPS_FOLDER, SHARDS_FOLDER):
        for partial in (folder / part).glob(".*.partial"):
            partial.unlink(missing_ok=True)
    found = {name: _whole_lines(folder / name) for name in (INDEX_NAME, DROPPED_NAME, SOURCES_NAME)}
    lines = {name: [line for line in whole if _source_of(line)] for name, whole in found.items()}
    damaged = {name for name, whole in found.items() if len(lines[name]) < len(whole)}
    for name in sorted(damaged):
        number = len(found[name]) - len(lines[name])
        logger.warning("%d damaged lines of %s were removed.", number, folder / name)
        _write_lines(folder / name, lines[name])
    sources = {name: [_source_of(line) for line in whole] for name, whole in lines.items()}
    counts = Counter(sources[INDEX_NAME])
    if (folder / SOURCES_NAME).exists():
        claimed = {row["source"]: row["clips"] for row in map(json.loads, lines[SOURCES_NAME])}
        # Where somebody removed the index, what stood in it is done anew.
        kept_index = (folder / INDEX_NAME).exists()
        done = {source for source, clips in claimed.items() if kept_index or not clips}
        if INDEX_NAME in damaged:
            done = {source for source in done if counts[source] >= claimed[source]}
        if DROPPED_NAME in damaged:
            done = {source for source in done if claimed[source] or source in sources[DROPPED_NAME]}
    else:
        # Prepared before there was a journal.
        done = counts.keys() | set(sources[DROPPED_NAME])
    for name in (INDEX_NAME, DROPPED_NAME):
        kept = [line for line, source in zip(lines[name], sources[name], strict=True) if source in done]
        if len(kept) < len(lines[name]):
            _write_lines(folder / name, kept)
    if set(sources[SOURCES_NAME]) != done:
        _write_lines(folder / SOURCES_NAME, [_done_line(source, counts[source]) for source in sorted(done)])
    return set(done)


def forget(folder: Path, sources: Set[str]) -> set[str]:
    """Let `sources` be done anew; the names of those that are still done."""
    lines = _whole_lines(folder / SOURCES_NAME)
    _write_lines(folder / SOURCES_NAME, [line for line in lines if _source_of(line) not in sources])
    return recover(folder)


def note(folder: Path, outcome: Outcome) -> None:
    """Write down what became of a source: its rows, and last that it is done."""
    _append(folder / INDEX_NAME, [record.to_json() for record in outcome.records])
    _append(folder / DROPPED_NAME, [json.dumps(row, ensure_ascii=False) for row in outcome.dropped])
    _append(folder / SOURCES_NAME, [_done_line(outcome.source, len(outcome.records))])


def require_same_rules(folder: Path, options: PrepareOptions) -> None:
    """Raise `DataError` when the clips of `folder` were cut by other rules than `options` state."""
    rules = {
        "face_size": options.face_size,
        "padding": list(options.crop.padding),
        "detector": options.detector,
    }
    before = _rules_of(folder)
    changed = [name for name in rules if name in before and before[name] != rules[name]]
    if changed:
        words = ", ".join(f"{name} {before[name]}, not {rules[name]}" for name in changed)
        raise DataError(f"{folder} was prepared by other rules ({words}): name another folder.")
    if before.keys() != rules.keys():
        write_whole(folder / OPTIONS_NAME, json.dumps(rules, indent=1).encode())


def _rules_of(folder: Path) -> dict:
    try:
        return json.loads((folder / OPTIONS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    try:
        return {"face_size": read_index(folder)[0].face_size}
    except DataError:
        return {}


def _source_of(line: str) -> str:
    """The source that a line is about; empty where the line is damaged."""
    try:
        return str(json.loads(line)["source"])
    except (ValueError, KeyError, TypeError):
        return ""


def _done_line(source: str, clips: int) -> str:
    return json.dumps({"source": source, "clips": clips}, ensure_ascii=False)


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file of JSON; a last one that was cut off is removed from it."""
    if not path.is_file():
        return []
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    lines = [_decoded(line) for line in whole.split(b"\n") if line.strip()]
    if torn:
        _write_lines(path, lines)
    return lines


def _decoded(line: bytes) -> str:
    """The line as text; a damaged one as something that is no JSON either."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return "damaged"


def _write_lines(path: Path, lines: list[str]) -> None:
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def _append(path: Path, lines: list[str]) -> None:
    if lines:
        with room_for(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
