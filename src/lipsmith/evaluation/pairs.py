"""Benchmark pair lists: which face says which speech. Read those of others, make new ones of any test set.

A line names a video and the file whose sound it is to say, apart from each other by a tab or, where no name has a space
in it, by spaces; suffixes may be left out. There are two layouts, and nothing in a list says which it has:

* `audio-video`: the lists of LRS2, LRS3 and LRW that came with the paper; also what is written here;
* `video-audio`: those of ReSyncED.

A list written here says its layout in a line that begins with `#`, as do its seed and rule.

New lists follow the paper (section 4.2.2): each video with the sound of another one that is shorter than it, drawn at
random; of another speaker, where a manifest names speakers. Which one is drawn depends on the seed and the two names
alone (SHA-256 of them, the least wins), never on a library's random numbers: the same footage gives the same list for
ever, and footage that is added changes few lines. Of more than a thousand speeches that would do, the thousand are
weighed that follow the face in the order of the hashes of single names, so that the work for a face is bounded.
"""

import dataclasses
import hashlib
import heapq
from bisect import bisect, bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lipsmith.data.cutting import NEVER_FOR_SYNC
from lipsmith.data.sources import VIDEO_SUFFIXES, Source, find_sources, read_file_lists, read_manifest
from lipsmith.data.storage import write_whole
from lipsmith.errors import DataError, InputError, OutputError, UsageError
from lipsmith.media.probe import MediaInfo, probe
from lipsmith.media.read import read_frames, read_sample_blocks
from lipsmith.timebase import SAMPLE_RATE_HZ

Layout = Literal["audio-video", "video-audio"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
SOUND_SUFFIXES = frozenset((".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus", ".wma"))
# Where the files of a list lie below its root, if not at their very names.
_VIDEO_FOLDERS = ("", "videos", "video")
_AUDIO_FOLDERS = ("", "audios", "audio", "wavs", "videos", "video")
_LAYOUT_WORD = "layout"
_MOST_WEIGHED = 1000


@dataclass(frozen=True)
class ListedPair:
    """A line of a list: a face and the speech that it is to say, by the names in the list."""

    video: str
    audio: str


@dataclass(frozen=True)
class PairList:
    """A list that was read or made.

    Attributes:
        name: of its file, without suffix.
        pairs: in its order.
        layout: of the file.
    """

    name: str
    pairs: tuple[ListedPair, ...]
    layout: Layout = "audio-video"

    @property
    def digest(self) -> str:
        """See `pairs_digest`."""
        return pairs_digest(self.pairs)


def pairs_digest(pairs: Iterable[ListedPair]) -> str:
    """SHA-256 of the pairs in their order, whatever the layout, spacing and remarks of the file they stood in."""
    lines = "".join(f"{pair.video}\t{pair.audio}\n" for pair in pairs)
    return hashlib.sha256(lines.encode()).hexdigest()


def first_pairs(listed: PairList, count: int) -> PairList:
    """The first so many pairs of a list, as a list with a digest of its own."""
    return dataclasses.replace(listed, pairs=listed.pairs[:count])


def read_pairs(path: Path | str, layout: Layout | None = None) -> PairList:
    """The list in a file.

    Args:
        path: of the list.
        layout: None: as the list says in a line of its own, or as suffixes tell where one column holds sound files and
            the other none.

    Raises:
        InputError: it cannot be read, has a line without two names (the message names it), or no line at all.
        UsageError: its layout cannot be told, or is none of `LAYOUTS`.
    """
    path = Path(path)
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"There is no layout {layout!r}; choose one of: {', '.join(LAYOUTS)}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"The list {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        place = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {place}: no text in UTF-8. Give a list of pairs.") from error
    rows: list[tuple[str, str]] = []
    said: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            word, _, value = line.lstrip("# ").partition(":")
            said = value.strip() if word.strip() == _LAYOUT_WORD else said
            continue
        if not line:
            continue
        names = [name.strip() for name in line.split("\t")] if "\t" in line else line.split()
        if len(names) != 2 or not all(names):
            raise InputError(
                f"{path}, line {number}: {_count(len(names), 'name')}, and a pair has two, a video's and a sound's, "
                f"with a space or (where names have spaces) a tab between them: {line[:80]!r}."
            )
        rows.append((names[0], names[1]))
    if not rows:
        raise InputError(f"{path} holds no pairs.")
    found = layout or _layout_of(rows, said, path)
    pairs = (ListedPair(*names) if found == "video-audio" else ListedPair(*names[::-1]) for names in rows)
    return PairList(path.stem, tuple(pairs), found)


def _layout_of(rows: Sequence[tuple[str, str]], said: str | None, path: Path) -> Layout:
    if said is not None:
        named = next((layout for layout in LAYOUTS if layout == said), None)
        if named is None:
            raise UsageError(
                f"{path} says that its layout is {said!r}; known are {', '.join(LAYOUTS)}: say --layout."
            )
        return named
    is_sound = [[Path(row[column]).suffix.lower() in SOUND_SUFFIXES for row in rows] for column in (0, 1)]
    for column, layout in enumerate(LAYOUTS):
        if all(is_sound[column]) and not any(is_sound[1 - column]):
            return layout
    raise UsageError(
        f"Which column of {path} names the videos cannot be told: say --layout audio-video (LRS2, LRS3, LRW) or "
        "--layout video-audio (ReSyncED)."
    )


def find_media(root: Path, name: str, kind: Literal["video", "audio"]) -> Path:
    """The file that a list means by `name`: below `root`, with any suffix of a video (or sound) where it has none.

    Files may lie in a folder of their kind (`videos/`, `audios/`, `wavs/`) below the root. Where there is no such file,
    the path at which it was expected first.
    """
    suffixes = ["", *sorted(VIDEO_SUFFIXES, key=lambda suffix: suffix != ".mp4")]
    if kind == "audio":
        suffixes += sorted(SOUND_SUFFIXES, key=lambda suffix: suffix != ".wav")
    for folder in _VIDEO_FOLDERS if kind == "video" else _AUDIO_FOLDERS:
        for suffix in suffixes:
            path = root / folder / f"{name}{suffix}"
            if path.is_file():
                return path
    return root / name


@dataclass(frozen=True)
class MadeList:
    """A new list, and what could not be in it: name of a video → why it says nothing."""

    pairs: tuple[ListedPair, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "num_pairs": len(self.pairs),
            "digest": pairs_digest(self.pairs),
            "left_out": self.left_out,
        }


@dataclass(frozen=True)
class CandidateVideo:
    """A video of a test set.

    Attributes:
        name: relative to the set's folder, with `/`.
        video_seconds, audio_seconds: of its picture and of its sound.
        speaker: None where nobody says who speaks.
    """

    name: str
    video_seconds: Fraction
    audio_seconds: Fraction
    speaker: str | None = None


def draw_pairs(
    videos: Iterable[CandidateVideo],
    *,
    seed: int = 0,
    per_video: int = 1,
    max_pairs: int | None = None,
    min_seconds: Fraction | float = 1,
) -> MadeList:
    """Pairs by the paper's rule; see the module.

    Args:
        videos: the test set.
        seed: another one, another list.
        per_video: speeches for each face.
        max_pairs: so many at most, drawn like the speeches, so that a small list is part of every larger one.
        min_seconds: shorter speeches are not taken, nor faces that are seen for less long.

    Raises:
        DataError: not one pair can be made.
    """
    found = sorted(videos, key=lambda video: video.name)
    if per_video < 1:
        raise UsageError(f"{per_video} speeches for each video: at least 1 is needed.")
    speeches = sorted(
        (video for video in found if video.audio_seconds >= min_seconds),
        key=lambda video: video.audio_seconds,
    )
    lengths = [speech.audio_seconds for speech in speeches]
    single = _ranking(seed, "")
    in_order = sorted((single(speech.name), number) for number, speech in enumerate(speeches))
    hashes, ring = [first for first, _ in in_order], np.array([number for _, number in in_order], np.int64)
    known_speakers = {video.speaker for video in found} - {None}
    number_of = {speaker: number for number, speaker in enumerate(known_speakers)}
    speaker_of = np.array([number_of.get(speech.speaker, -1) for speech in speeches], np.int64)
    pairs: list[ListedPair] = []
    left_out: dict[str, str] = {}
    for face in found:
        if face.video_seconds < min_seconds:
            left_out[face.name] = f"it lasts less than {float(min_seconds):g} s"
            continue
        rank = _ranking(seed, face.name)
        others = np.roll(ring, -bisect(hashes, single(face.name)))  # those that follow, itself at the end
        others = others[others < bisect_left(lengths, face.video_seconds)]
        if face.speaker is not None:
            others = others[speaker_of[others] != number_of[face.speaker]]
        names = (speeches[number].name for number in others[: max(_MOST_WEIGHED, per_video)])
        fitting = heapq.nsmallest(per_video, ((rank(name), name) for name in names if name != face.name))
        if not fitting:
            left_out[face.name] = "no speech of somebody else is shorter than it"
            continue
        pairs += [ListedPair(face.name, speech) for _, speech in fitting]
    if not pairs:
        raise DataError(
            f"{len(found)} videos give not one pair of a face and a shorter speech of somebody else: give more footage."
        )
    if max_pairs is not None and len(pairs) > max_pairs:
        kept = set(sorted(pairs, key=lambda pair: _ranking(seed, pair.audio)(pair.video))[:max_pairs])
        pairs = [pair for pair in pairs if pair in kept]
    return MadeList(tuple(pairs), left_out)


def make_pairs(
    folder: Path | str,
    *,
    seed: int = 0,
    manifest: Path | str | None = None,
    file_lists: Path | str | None = None,
    speakers: Collection[str] = (),
    leave_out: Collection[str] = (),
    per_video: int = 1,
    max_pairs: int | None = None,
    min_seconds: Fraction | float = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> MadeList:
    """A list of pairs of the videos in `folder` and below it.

    Args:
        folder: the test set.
        seed, per_video, max_pairs, min_seconds: see `draw_pairs`.
        manifest: table of speakers, see `lipsmith.data.sources.read_manifest`. With it nobody says his own words, and
            footage whose sound does not belong to its lips (`use` faces-only or test-only) is left out.
        file_lists: folder with the set's `test.txt`, see `lipsmith.data.sources.read_file_lists`: only the videos that
            it names. LRS2 has its training footage in the same folder.
        speakers: only these; needs the manifest.
        leave_out: videos whose name contains one of these are not used.
        on_progress: called with (videos looked into, videos in all).

    Raises:
        DataError: no videos, a manifest that is none, a speaker whom it does not name, no pair.
        UsageError: speakers without a manifest.
    """
    folder = Path(folder)
    if speakers and manifest is None:
        raise UsageError("Speakers are known from a manifest: give one with --manifest.")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the folder of a test set.")
    known = None if manifest is None else read_manifest(Path(manifest))
    lists = None if file_lists is None else read_file_lists(Path(file_lists))
    sources = [source for source in find_sources([folder], known, lists) if source.kind == "video"]
    if not sources:
        raise DataError(f"There is no video in {folder} ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    if known is not None:
        named = {source.facts["speaker"] for source in sources}
        if absent := sorted(set(speakers) - named):
            raise DataError(f"{manifest} names no speaker {', '.join(absent)} of a video in {folder}.")
    wanted = [source for source in sources if _is_wanted(source, speakers, leave_out)]
    if lists is not None:
        wanted = [source for source in wanted if source.facts.get("split") == "test"]
        if not wanted:
            raise DataError(f"The test.txt in {file_lists} names no video of {folder} that is wanted.")
    videos, left_out = [], {}
    for done, source in enumerate(wanted, 1):
        try:
            if known is not None and source.facts.get("use") in NEVER_FOR_SYNC:
                raise InputError(f"the manifest says {source.facts['use']}")
            speaker = source.facts["speaker"] if known is not None else None
            videos.append(CandidateVideo(source.name, *_durations(source.path), speaker))
        except InputError as error:
            left_out[source.name] = str(error)
        if on_progress:
            on_progress(done, len(wanted))
    made = draw_pairs(
        videos, seed=seed, per_video=per_video, max_pairs=max_pairs, min_seconds=Fraction(min_seconds)
    )
    return MadeList(made.pairs, {**left_out, **made.left_out})


def pairs_text(
    pairs: Sequence[ListedPair], layout: Layout = "audio-video", remarks: Sequence[str] = ()
) -> str:
    """A list as text; `read_pairs` reads it back. `remarks` are lines about it.

    Raises:
        DataError: a name that no list can hold.
    """
    for pair in pairs:
        for name in (pair.video, pair.audio):
            if name != name.strip() or name.startswith("#") or any(sign in name for sign in "\t\n\r"):
                raise DataError(f"The name {name!r} cannot stand in a list: rename the file.")
    spaced = any(len(name.split()) > 1 for pair in pairs for name in (pair.video, pair.audio))
    between = "\t" if spaced else " "
    lines = [f"# {_LAYOUT_WORD}: {layout}", *(f"# {remark}" for remark in remarks)]
    for pair in pairs:
        names = (pair.video, pair.audio) if layout == "video-audio" else (pair.audio, pair.video)
        lines.append(between.join(names))
    return "\n".join(lines) + "\n"


def write_pairs(
    path: Path,
    pairs: Sequence[ListedPair],
    layout: Layout = "audio-video",
    *,
    remarks: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write a list; see `pairs_text`.

    Raises:
        OutputError: another list is there already, and is not to be replaced; or it cannot be written.
        DataError: a name that no list can hold.
    """
    content = pairs_text(pairs, layout, remarks).encode()
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file for the list.")
    if path.exists() and not overwrite and path.read_bytes() != content:
        raise OutputError(
            f"{path} exists already and holds something else: choose another name, or allow to replace it with "
            "--overwrite."
        )
    write_whole(path, content)


def _ranking(seed: int, first: str) -> Callable[[str], bytes]:
    """From a second name to its rank beside the first: SHA-256 of the seed and both."""
    begun = hashlib.sha256(f"{seed}\n{first}\n".encode())

    def rank(second: str) -> bytes:
        whole = begun.copy()
        whole.update(second.encode())
        return whole.digest()

    return rank


def _is_wanted(source: Source, speakers: Collection[str], leave_out: Collection[str]) -> bool:
    if any(part in source.name for part in leave_out):
        return False
    return not speakers or source.facts["speaker"] in speakers


def _durations(path: Path) -> tuple[Fraction, Fraction]:
    """Seconds of picture and of sound, as declared, or counted where nothing is; `InputError` where one is absent."""
    info = probe(path)
    if info.video is None or info.is_image:
        raise InputError("it has no moving picture")
    if info.audio is None:
        raise InputError("it has no sound")
    video = info.video.duration or _declared(info)
    if video is None:
        video = max(frame.time for frame in read_frames(path)) + 1 / info.video.rate
    audio = info.audio.duration or _declared(info)
    if audio is None:
        audio = Fraction(sum(map(len, read_sample_blocks(path))), SAMPLE_RATE_HZ)
    return video, audio


def _declared(info: MediaInfo) -> Fraction | None:
    return info.duration if info.duration and info.duration > 0 else None


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
