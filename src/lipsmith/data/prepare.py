"""Raw footage → prepared clips in shards: one face track per clip, crops with a margin, the mel, exact times, an index.

Nothing is corrected silently: what is left out is written to `dropped.jsonl` with its reason and counted in the report.
A run that was cut off goes on where it stopped: `sources.jsonl` lists what is done, and rows of anything else are
removed before it is done anew.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lipsmith.data.clips import (
    DROPPED_NAME,
    INDEX_NAME,
    ClipRecord,
    dropped_counts,
    dropped_rows,
    read_index,
    write_index,
)
from lipsmith.data.cutting import NEVER_FOR_SYNC, NOT_FOR_SYNC, Outcome, PrepareOptions, cut_source
from lipsmith.data.journal import alone_in, forget, note, recover, require_same_rules
from lipsmith.data.shards import SHARD_BYTES, loose_bytes, lost_clips, pack_clips
from lipsmith.data.sources import (
    SOUND_NAME,
    VIDEO_SUFFIXES,
    Source,
    find_sources,
    read_file_lists,
    read_manifest,
)
from lipsmith.data.storage import room_for
from lipsmith.errors import DataError, OutputError
from lipsmith.spread import spread_work
from lipsmith.timebase import TRAINING_RATE_HZ

__all__ = ["PrepareOptions", "PrepareReport", "prepare"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found: counts of clips, frames and everything left out by reason."""

    output: Path
    num_videos: int
    num_clips: int
    num_shards: int
    num_frames: int
    seconds: float
    num_speakers: int
    dropped: dict[str, int]
    num_lost: int = 0
    """Clips of the index whose file is gone or cut off, and whose footage was not given again."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "output": str(self.output)}


def prepare(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    manifest: Path | str | None = None,
    file_lists: Path | str | None = None,
    facts: dict[str, str] | None = None,
    options: PrepareOptions | None = None,
    workers: int | None = None,
    ray: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Turn footage into prepared clips under `output`; see the module's text for what is written.

    Args:
        inputs: Videos, or folders of videos, or of clips whose face crops are numbered pictures beside an `audio.wav`
            (the layout of the published preprocessing). None to pack an older prepared folder into shards.
        output: Folder to write; sources that it already knows are not done again, but what `manifest` and `file_lists`
            say of them is brought up to date.
        manifest: Table of speakers and licences, see `read_manifest`. Without one the speaker is the name of the folder
            that a video lies in, or the video's own name when it lies in none.
        file_lists: Folder of lists that say what is for training, validation and test; see `read_file_lists`.
        facts: Licence, use, collection and origin of whatever the manifest says nothing about.
        options: Limits and crop.
        workers: Processes; as many as there are cores when None.
        ray: Address of a Ray cluster (`auto`, `local` or host:port) to work on instead of processes of this machine;
            its machines must see inputs and output at the same paths.
        shard_bytes: Size of a shard.
        on_progress: Called with (sources done, sources in all).

    Raises:
        DataError: No footage among the inputs, or not one usable clip; a folder prepared with other options.
        OutputError: No room, or not writable. What was finished stays.
        RuntimeUnavailableError: Ray was asked for and is not installed.
    """
    options = options or PrepareOptions()
    output = Path(output)
    found = find_sources(
        [Path(given) for given in inputs],
        read_manifest(Path(manifest)) if manifest else None,
        read_file_lists(Path(file_lists)) if file_lists else None,
        facts,
    )
    if not found and (inputs or not (output / INDEX_NAME).is_file()):
        raise DataError(
            f"No videos found in {', '.join(map(str, inputs)) or 'nothing'}. Looked for, at any depth: "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}, and folders of 0.jpg, 1.jpg, … with {SOUND_NAME}."
        )
    with room_for(output):
        output.mkdir(parents=True, exist_ok=True)
    with alone_in(output):
        done = recover(output)
        if found:
            require_same_rules(output, options)
            done = _done_as_stated(output, _done_with_clips(output, done, found), found)
        sources = [source for source in found if source.name not in done]
        finished = len(found) - len(sources)
        if on_progress:
            on_progress(finished, len(found))
        loose = 0
        try:
            with contextlib.closing(_cut(sources, output, options, workers, ray)) as outcomes:
                for outcome in outcomes:
                    note(output, outcome)
                    finished += 1
                    if on_progress:
                        on_progress(finished, len(found))
                    loose += loose_bytes(output, outcome.records)
                    if loose >= shard_bytes:
                        pack_clips(output, shard_bytes=shard_bytes, only_full=True)
                        loose = 0
            if (output / INDEX_NAME).is_file():
                pack_clips(output, shard_bytes=shard_bytes)
        except OutputError as error:
            raise OutputError(f"{error} {finished} of {len(found)} sources are done.") from error
        return _report(output, len(found))


def _done_with_clips(output: Path, done: set[str], found: list[Source]) -> set[str]:
    """`done` without those of the sources `found` whose clips were lost since: deleted, or cut off."""
    if not (output / INDEX_NAME).is_file() or not done:
        return done
    try:
        lost = lost_clips(output, read_index(output))
    except DataError:  # an empty index
        return done
    again = {record.source for record in lost} & {source.name for source in found}
    if not again:
        return done
    logger.warning(
        "%d clips are gone or cut off: %d videos or folders are done anew.",
        sum(record.source in again for record in lost),
        len(again),
    )
    return forget(output, again)


def _done_as_stated(output: Path, done: set[str], found: list[Source]) -> set[str]:
    """`done`, with the index brought up to what a manifest or lists say now of what was done earlier.

    What is said not to be for sync, or to be after all, is done anew.
    """
    stated: dict[str, dict[str, Any]] = {
        source.name: dict(source.stated) for source in found if source.name in done and source.stated
    }
    if not stated:
        return done
    try:
        records = read_index(output)
    except DataError:  # an empty index, or none
        records = []
    told = [replace(record, **stated.get(record.source, {})) for record in records]
    again = {record.source for record in told if record.use in NEVER_FOR_SYNC and record.source in stated}
    for row in dropped_rows(output):
        use = stated.get(row["source"], {}).get("use")
        if row["reason"] == NOT_FOR_SYNC and use and use not in NEVER_FOR_SYNC:
            again.add(row["source"])
    if told != records:
        changed = len({after.source for after, before in zip(told, records, strict=True) if after != before})
        logger.warning("What the index says of %d videos or folders was brought up to date.", changed)
        write_index(output, told)
    return forget(output, again) if again else done


def _cut(
    sources: list[Source], output: Path, options: PrepareOptions, workers: int | None, ray: str | None
) -> Generator[Outcome, None, None]:
    """Outcomes in the order in which they finish."""
    if ray is not None:
        # The cluster's other processes work in other folders.
        sources = [replace(source, path=source.path.resolve()) for source in sources]
        output = output.resolve()
    cut = functools.partial(cut_source, output=output, options=options)
    return spread_work(cut, sources, jobs=workers, ray=ray, name_of=lambda source: source.name)


def _report(output: Path, num_sources: int) -> PrepareReport:
    dropped = dropped_counts(output)
    try:
        records: list[ClipRecord] = read_index(output)
    except DataError as error:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items()))
        raise DataError(
            f"None of {num_sources} videos or folders gave a usable clip ({reasons}). "
            f"{output / DROPPED_NAME} says more of each."
        ) from error
    lost = lost_clips(output, records)
    if len(lost) == len(records):
        raise DataError(
            f"All {len(lost)} clips of {output} are gone or cut off, {output / lost[0].file} to begin with. Give their "
            "footage to `lipsmith prepare` again: they are made anew."
        )
    frames = sum(record.num_frames for record in records)
    return PrepareReport(
        output,
        num_sources,
        len(records),
        len({record.shard for record in records if record.shard}),
        frames,
        frames / float(TRAINING_RATE_HZ),
        len({record.speaker for record in records}),
        dropped,
        len(lost),
    )
