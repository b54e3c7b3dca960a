"""Folders of videos, one a system → a study folder: clips under blind names, attention checks, every rater's pages."""

import json
import os
import secrets
import shutil
import tempfile
import wave
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

import lipsmith
from lipsmith.errors import InputError, OutputError, UsageError
from lipsmith.media.probe import MediaInfo, probe
from lipsmith.media.read import read_frames
from lipsmith.media.sound import sound_blocks
from lipsmith.media.write import EncoderOptions, VideoWriter
from lipsmith.provenance.record import printable
from lipsmith.study.folder import (
    ALL_GROUPS,
    LINKS_FILE,
    SCALES,
    SCORES,
    STUDY_FILE,
    VIDEOS_FOLDER,
    Check,
    Clip,
    Design,
    Item,
    Page,
    Study,
    System,
    file_sha256,
)
from lipsmith.study.plan import PlannedPage, measure_balance, plan_pages
from lipsmith.study.texts import Texts

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
)
# What every browser of the last ten years plays, phones included.
_PLAYED_CODECS = ("h264", "aac")
_PLAYED_PIXELS = frozenset(("yuv420p", "yuvj420p"))
_ENCODER = EncoderOptions(quality=14, preset="medium")
_MOST_CHANNELS = 2
_MOST_APART_SECONDS = 0.5
_PASSING_SHIFTED = (1, 2)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a study is made.

    Attributes:
        title: shown on every page.
        num_raters: places in the study; each has its personal link.
        seed: of the plan and of the choice of checks.
        items_per_rater: items that each rater sees; None: all.
        versions_per_item: systems by which a rater rates each item; None: all.
        anchors: systems that are rated and not on the preference pages, as real videos are in the paper's table 2.
        with_preference: whether there are preference pages.
        num_checks: attention checks of each rater: the first of shifted sound, the second an instruction, and so on.
        shift_seconds: by how much the sound of the shifted checks is late; half the clip where that is less.
        encode_all: encode every clip anew, so that the files say nothing of the program that wrote them.
        common_only: leave out items that a system lacks, instead of refusing them.
    """

    title: str = "Judging talking faces"
    num_raters: int = 14
    seed: int = 0
    items_per_rater: int | None = None
    versions_per_item: int | None = None
    anchors: tuple[str, ...] = ()
    with_preference: bool = True
    num_checks: int = 2
    shift_seconds: float = 1.0
    encode_all: bool = False
    common_only: bool = False


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built: the study, its folder, items that were left out, and what a person should know."""

    folder: Path
    study: Study
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


def build_study(
    systems: Mapping[str, Path],
    output: Path,
    options: BuildOptions | None = None,
    texts: Texts | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildReport:
    """Make a study folder of one folder of videos for each system.

    Files of the same path below their folders, suffix aside, are versions of one item. The first folder of that path,
    if there is one, is the item's group: `dubbed/talk.mp4` is the item `dubbed/talk` of the group `dubbed`.

    Args:
        systems: name → folder.
        output: the new folder; it must not exist, or be empty.
        options: the design.
        texts: what the pages say.
        on_progress: called with the number of clips done and their total.

    Raises:
        UsageError: no systems, an unknown anchor, a number out of its range.
        InputError: a folder without videos, a version that is missing, a video without sound or that cannot be read.
        OutputError: the output exists, or cannot be written.
    """
    options, texts = options or BuildOptions(), texts or Texts()
    _require_options(systems, options)
    versions, left_out = find_items(systems, common_only=options.common_only)
    items = sorted(versions)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(
            f"{output} exists already and may hold answers; choose another folder with --output."
        )
    check_items = _check_items(items, options)
    plan = plan_pages(
        items,
        list(systems),
        num_raters=options.num_raters,
        seed=options.seed,
        items_per_rater=options.items_per_rater,
        versions_per_item=options.versions_per_item,
        compared=[name for name in systems if name not in options.anchors] if options.with_preference else (),
        checks=check_items,
    )
    # All of them before the first is encoded: the last one's mistake is not to cost an hour.
    infos = {path: _probe(path) for by_system in versions.values() for path in by_system.values()}
    total = len(items) * len(systems) + sum(1 for number in range(options.num_checks) if number % 2 == 0)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.parent / f".{output.name[:40]}.partial-{secrets.token_hex(4)}"
        partial.mkdir()
    except OSError as error:
        raise OutputError(
            f"{output} cannot be made: {error.strerror}. Choose another place with --output."
        ) from error
    try:
        (partial / VIDEOS_FOLDER).mkdir()
        clips: dict[tuple[str, str], Clip] = {}
        for item in items:
            for system in systems:
                source = versions[item][system]
                clips[item, system] = _add_clip(source, infos[source], partial, item, system, options)
                on_progress(len(clips), total)
        checks: list[Check] = []
        shown = list(clips.values())
        checked = options.anchors[0] if options.anchors else next(iter(systems))
        for number, item in enumerate(check_items):
            check, extra = _add_check(number, item, checked, versions, clips, partial, options)
            checks.append(check)
            shown += extra
            on_progress(len(shown), total)
        study = Study(
            title=options.title,
            created=datetime.now(UTC).replace(microsecond=0),
            made_by=f"lipsmith {lipsmith.__version__}",
            design=Design(
                seed=options.seed,
                num_raters=options.num_raters,
                items_per_rater=options.items_per_rater or len(items),
                versions_per_item=options.versions_per_item or len(systems),
                balance=asdict(measure_balance(plan)),
            ),
            systems=tuple(
                System(name=name, compared=options.with_preference and name not in options.anchors)
                for name in systems
            ),
            items=tuple(Item(name=item, group=_group(item)) for item in items),
            clips=tuple(sorted(shown, key=lambda clip: clip.id)),
            checks=tuple(checks),
            texts=texts,
            raters=tuple(tuple(_page(page, clips, checks) for page in pages) for pages in plan),
        ).with_digest()
        tokens = [secrets.token_urlsafe(12) for _ in study.raters]
        text = json.dumps(study.model_dump(mode="json"), indent=1, ensure_ascii=False)
        (partial / STUDY_FILE).write_text(text + "\n", encoding="utf-8")
        (partial / LINKS_FILE).write_text(
            json.dumps({"study": study.digest, "tokens": tokens}, indent=1) + "\n"
        )
        with suppress(OSError):  # of file systems without modes: shares, sticks, drives of Windows
            (partial / LINKS_FILE).chmod(0o600)
        if output.exists():
            output.rmdir()  # empty, as was seen above
        partial.replace(output)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written: {error.strerror}. Make room, or choose another place."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return BuildReport(output, study, tuple(left_out), tuple(_warnings(study)))


def find_items(
    systems: Mapping[str, Path], *, common_only: bool
) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """The versions of each item, item → system → file, and the items left out because a system lacks them.

    Raises:
        InputError: no folder, no videos in it, the same item twice, or (unless `common_only`) an item that is missing.
    """
    found = {system: _videos(folder) for system, folder in systems.items()}
    everything = sorted(set().union(*found.values()))
    lacking = {item: [system for system in systems if item not in found[system]] for item in everything}
    left_out = [item for item in everything if lacking[item]]
    if left_out and not common_only:
        first = left_out[0]
        raise InputError(
            f"{len(left_out)} of {len(everything)} items have no video of some system; the first, {first}, has none in "
            f"{systems[lacking[first][0]]}. Add them, or leave them out with --common."
        )
    kept = [item for item in everything if not lacking[item]]
    groups = {_group(item) for item in kept}
    if ALL_GROUPS in groups and len(groups) > 1:
        raise InputError(
            f"A folder {ALL_GROUPS}/ would be a kind of video, and tables call all kinds together so; rename it."
        )
    if not kept:
        raise InputError(
            "No video is in every folder: versions of an item have the same file name in each of them."
        )
    return {item: {system: found[system][item] for system in systems} for item in kept}, left_out


def _videos(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; check the path.")
    videos: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
            continue
        item = relative.with_suffix("").as_posix()
        if item in videos:
            raise InputError(f"{videos[item]} and {path} would be one item; rename one of them.")
        if printable(item) != item:
            raise InputError(f"The name of {printable(str(path))} holds what is no text; rename it.")
        videos[item] = path
    if not videos:
        raise InputError(
            f"There are no videos in {folder}; known suffixes are {', '.join(sorted(VIDEO_SUFFIXES))}."
        )
    return videos


def _group(item: str) -> str:
    return item.split("/")[0] if "/" in item else ""


def _check_items(items: Sequence[str], options: BuildOptions) -> list[str]:
    shuffled = list(items)
    Random(f"{options.seed}/checks").shuffle(shuffled)
    return [shuffled[number % len(shuffled)] for number in range(options.num_checks)]


def _add_clip(
    source: Path, info: MediaInfo, folder: Path, item: str, system: str, options: BuildOptions
) -> Clip:
    name = secrets.token_hex(8)
    target = folder / VIDEOS_FOLDER / f"{name}.mp4"
    if options.encode_all or not plays_everywhere(source, info):
        _encode(source, info, target)
        return _describe(name, target, item, system, "encoded")
    shutil.copyfile(source, target)
    return _describe(name, target, item, system, "copied")


def _add_check(
    number: int,
    item: str,
    system: str,
    versions: Mapping[str, Mapping[str, Path]],
    clips: Mapping[tuple[str, str], Clip],
    folder: Path,
    options: BuildOptions,
) -> tuple[Check, list[Clip]]:
    """A check, and the clips that were made for it."""
    if number % 2:
        score = Random(f"{options.seed}/instruction/{number}").choice(SCORES)
        check = Check(
            kind="instruction", clip=clips[item, system].id, accepted=dict.fromkeys(SCALES, (score,))
        )
        return check, []
    source = versions[item][system]
    name = secrets.token_hex(8)
    target = folder / VIDEOS_FOLDER / f"{name}.mp4"
    shift = _encode_shifted(source, _probe(source), target, options.shift_seconds)
    made = _describe(name, target, item, system, "shifted")
    return Check(kind="shifted", clip=name, accepted={"sync": _PASSING_SHIFTED}, shift_seconds=shift), [made]


def _probe(path: Path) -> MediaInfo:
    info = probe(path)
    if info.video is None or info.is_image:
        raise InputError(f"{path} has no moving picture; give videos.")
    if info.audio is None:
        raise InputError(f"{path} has no sound; raters cannot judge its sync. Add the speech to it.")
    return info


def plays_everywhere(path: Path, info: MediaInfo) -> bool:
    """Whether any browser plays the file as it is: MP4 with 8-bit 4:2:0 H.264 and AAC."""
    return (
        path.suffix.lower() in (".mp4", ".m4v")
        and info.video is not None
        and info.audio is not None
        and (info.video.codec, info.audio.codec) == _PLAYED_CODECS
        and info.video.pixel_format in _PLAYED_PIXELS
    )


def _encode(source: Path, info: MediaInfo, target: Path, audio: Path | None = None) -> None:
    assert info.video is not None
    with VideoWriter(
        target,
        width=info.video.width,
        height=info.video.height,
        rate=info.video.rate,
        audio=audio or source,
        options=_ENCODER,
        colour=info.video.colour,
        pixel_aspect=info.video.pixel_aspect,
        variable_rate=info.video.variable_rate,
    ) as writer:
        for frame in read_frames(source):
            writer.write(frame.image, frame.time)


def _encode_shifted(source: Path, info: MediaInfo, target: Path, seconds: float) -> float:
    """Encode with the sound `seconds` later, its end put before its start; returns by how many it is late."""
    assert info.audio is not None
    channels, rate = min(info.audio.channels, _MOST_CHANNELS), info.audio.sample_rate
    layout = "mono" if channels == 1 else "stereo"
    blocks = list(sound_blocks(source, rate=rate, layout=layout, sample_format="s16"))
    samples = np.concatenate(blocks, axis=1)
    shift = min(seconds, samples.shape[1] / rate / 2)
    shifted = np.roll(samples, round(shift * rate), axis=1)
    with tempfile.NamedTemporaryFile(suffix=".wav", dir=target.parent, delete=False) as file:
        sound = Path(file.name)
    try:
        with wave.open(os.fspath(sound), "wb") as wav:
            wav.setnchannels(channels)
            wav.setsampwidth(2)
            wav.setframerate(rate)
            wav.writeframes(shifted.T.astype("<i2").tobytes())
        _encode(source, info, target, sound)
    finally:
        sound.unlink(missing_ok=True)
    return round(shift, 3)


def _describe(
    name: str, path: Path, item: str, system: str, made: Literal["copied", "encoded", "shifted"]
) -> Clip:
    info = probe(path)
    assert info.video is not None
    return Clip(
        id=name,
        file=path.name,
        item=item,
        system=system,
        sha256=file_sha256(path),
        num_bytes=path.stat().st_size,
        seconds=round(float(info.duration or info.video.duration or Fraction(0)), 3),
        width=info.video.width,
        height=info.video.height,
        made=made,
    )


def _page(page: PlannedPage, clips: Mapping[tuple[str, str], Clip], checks: Sequence[Check]) -> Page:
    if page.check is not None:
        return Page(kind="check", item=page.item, clips=(checks[page.check].clip,), check=page.check)
    return Page(
        kind=page.kind, item=page.item, clips=tuple(clips[page.item, system].id for system in page.systems)
    )


def _require_options(systems: Mapping[str, Path], options: BuildOptions) -> None:
    if not systems:
        raise UsageError(
            "There is nothing to judge: name at least one system, as in --system wav2lip=FOLDER."
        )
    for name in systems:
        if printable(name) != name:
            raise UsageError(f"The name {printable(name)} of a system holds what is no text; choose another.")
    unknown = [name for name in options.anchors if name not in systems]
    if unknown:
        raise UsageError(
            f"The anchor {unknown[0]} is no system of this study; there are {', '.join(systems)}."
        )
    if options.num_checks < 0 or not options.shift_seconds > 0:  # NaN neither
        raise UsageError(
            "The number of checks must be 0 or more, and the shift of their sound more than 0 seconds."
        )


def _warnings(study: Study) -> list[str]:
    """What would let raters tell systems apart, or upsets the balance, in sentences."""
    warnings = []
    num_systems = len(study.systems)
    if study.design.num_raters % num_systems:
        warnings.append(
            f"{study.design.num_raters} raters are no multiple of {num_systems} systems: positions and places are "
            "balanced but for one."
        )
    compared = [system.name for system in study.systems if system.compared]
    if len(compared) == 1:
        warnings.append(
            f"{compared[0]} has no other system to be compared with: no pages show versions side by side."
        )
    for item in study.items:
        versions = [clip for clip in study.clips if clip.item == item.name and clip.made != "shifted"]
        seconds = [clip.seconds for clip in versions]
        if max(seconds) - min(seconds) > _MOST_APART_SECONDS:
            warnings.append(
                f"The versions of {item.name} last from {min(seconds):.1f} to {max(seconds):.1f} s: raters see that."
            )
        if len({(clip.width, clip.height) for clip in versions}) > 1:
            warnings.append(f"The versions of {item.name} differ in size: raters may see that.")
    return warnings
