"""Prepared clips packed into shards: tar files as WebDataset reads them, and where in them each clip lies.

`shards/000000.tar` holds two files for each clip, `<key>.json` (its record) and `<key>.npz` (see
`lipsmith.data.clips.clip_bytes`); the key is the clip's id with its dots replaced, since WebDataset cuts names at the
first dot. The index knows the position of each clip's npz, so that training reads clips in any order, which a seeded,
exactly resumable training must; whoever would rather stream opens the shards with `webdataset.WebDataset`.
"""

import contextlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from lipsmith.data.clips import (
    CLIPS_FOLDER,
    ClipRecord,
    clip_from_bytes,
    digest_of,
    read_index,
    write_index,
)
from lipsmith.data.storage import room_for
from lipsmith.errors import DataError

SHARDS_FOLDER = "shards"
SHARD_BYTES = 256 << 20
_BLOCK = tarfile.BLOCKSIZE


def loose_bytes(folder: Path, records: Iterable[ClipRecord]) -> int:
    """Size of the clips of `records` that are files of their own."""
    total = 0
    for record in records:
        if not record.shard:
            with contextlib.suppress(FileNotFoundError):
                total += (folder / record.file).stat().st_size
    return total


def lost_clips(folder: Path, records: Iterable[ClipRecord]) -> list[ClipRecord]:
    """Those of `records` whose file is not there, or ends before the clip does; nothing is read."""
    sizes: dict[str, int] = {}
    lost = []
    for record in records:
        if record.file not in sizes:
            path = folder / record.file
            sizes[record.file] = path.stat().st_size if path.is_file() else 0
        if sizes[record.file] < max(1, record.shard_offset + record.shard_size):
            lost.append(record)
    return lost


def pack_clips(
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    only_full: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Move the clips of a prepared folder that are files of their own into shards.

    A shard is written whole, then the index, then the clips' own files are removed: whenever it is cut off, every clip
    is where the index says, and the next run goes on. A clip that is damaged stays a file of its own.

    Args:
        folder: Written by `lipsmith.data.prepare.prepare`.
        shard_bytes: Size of a shard, which its last clip may exceed.
        only_full: Leave clips that do not fill a shard for later.
        on_progress: Called with (clips packed, clips to pack).

    Returns:
        Shards written.

    Raises:
        OutputError: No room, or not writable; all clips can still be read.
    """
    records = read_index(folder)
    _remove_leftovers(folder, records)
    loose = [number for number, record in enumerate(records) if not record.shard]
    numbers = [int(Path(record.shard).stem) for record in records if record.shard]
    next_number = max(numbers, default=-1) + 1
    written = packed = 0
    for group in _groups(folder, records, loose, shard_bytes, only_full):
        name = f"{next_number + written:06d}.tar"
        for number, record in _write_shard(folder / SHARDS_FOLDER / name, folder, records, group):
            records[number] = record
        write_index(folder, records)
        _remove_leftovers(folder, [records[number] for number in group])
        written += 1
        packed += len(group)
        if on_progress:
            on_progress(packed, len(loose))
    with contextlib.suppress(OSError):
        (folder / CLIPS_FOLDER).rmdir()  # when it is empty
    return written


def _groups(
    folder: Path, records: list[ClipRecord], loose: list[int], shard_bytes: int, only_full: bool
) -> Iterator[list[int]]:
    """Numbers of the readable clips among `loose`, a shard's worth at a time."""
    group: list[int] = []
    size = 0
    for number in loose:
        record = records[number]
        try:
            content = (folder / record.file).read_bytes()
            clip_from_bytes(record, content)
        except (OSError, DataError):
            continue
        group.append(number)
        size += len(content)
        if size >= shard_bytes:
            yield group
            group, size = [], 0
    if group and not only_full:
        yield group


def _write_shard(
    path: Path, folder: Path, records: list[ClipRecord], group: list[int]
) -> list[tuple[int, ClipRecord]]:
    """Write one shard whole or not at all; the records of its clips, with their places in it."""
    placed = []
    partial = path.with_name(f".{path.name}.partial")
    with room_for(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    for number in group:
                        record = records[number]
                        content = (folder / record.file).read_bytes()
                        key = record.id.replace(".", "_")
                        _add(tar, f"{key}.json", record.to_json().encode())
                        offset = _add(tar, f"{key}.npz", content)
                        placed.append(
                            (
                                number,
                                replace(
                                    record,
                                    shard=path.name,
                                    shard_offset=offset,
                                    shard_size=len(content),
                                    digest=digest_of(content),
                                ),
                            )
                        )
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)  # noqa: PTH105
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    return placed


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file; where its bytes begin in the tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    return tar.offset - -(-len(content) // _BLOCK) * _BLOCK


def _remove_leftovers(folder: Path, records: Iterable[ClipRecord]) -> None:
    """Own files of clips that are in a shard."""
    for record in records:
        if record.shard:
            (folder / CLIPS_FOLDER / f"{record.id}.npz").unlink(missing_ok=True)
