"""The study folder: what is asked of whom, by which files. Written once by `build`, then only read.

study.json      the whole design: items, systems, clips with SHA-256, every rater's pages, texts; a digest of itself
links.json      the secret of each rater's personal link; not part of the design, so that that can be published
videos/         the clips, under names that tell nothing
answers.sqlite3 the answers, unless another database is named
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lipsmith.errors import DataError
from lipsmith.study.texts import Texts

STUDY_FILE = "study.json"
LINKS_FILE = "links.json"
VIDEOS_FOLDER = "videos"
ANSWERS_FILE = "answers.sqlite3"
SCALES = ("sync", "visual", "overall")
"""The questions with answers from 1 to 5, in the order of the paper's table 2."""
PREFERENCE = "preference"
SCORES = (1, 2, 3, 4, 5)
ALL_GROUPS = "all"
"""What tables call all kinds of video together."""

_BLOCK = 1 << 20


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class System(_Record):
    """A lip-sync program, or real videos; `compared` says whether it stands on the preference pages."""

    name: str
    compared: bool


class Item(_Record):
    """What all systems show in a version of their own; `group` is the kind of video, as "Dubbed" in the paper."""

    name: str
    group: str


class Clip(_Record):
    """A video as raters see it: `id` is its blind name, `made` how it came from the system's own file."""

    id: str
    file: str
    item: str
    system: str
    sha256: str
    num_bytes: int
    seconds: float
    width: int
    height: int
    made: Literal["copied", "encoded", "shifted"]


class Check(_Record):
    """An attention check: a clip, and which scores pass, by question; the others do not count.

    `shifted`: the sound is `shift_seconds` late, so that only low scores for sync accuracy are right. `instruction`:
    the page says which score to choose.
    """

    kind: Literal["shifted", "instruction"]
    clip: str
    accepted: dict[str, tuple[int, ...]]
    shift_seconds: float | None = None


class Page(_Record):
    """A page of a rater: one clip to rate (on checks, `check` is the check's number), or several to compare."""

    kind: Literal["rating", "check", "preference"]
    item: str
    clips: tuple[str, ...]
    check: int | None = None


class Design(_Record):
    """The numbers that the plan was made with, and how even it came out ((least, most) pairs)."""

    seed: int
    num_raters: int
    items_per_rater: int
    versions_per_item: int
    balance: dict[str, tuple[int, int] | None]


class Study(_Record):
    """Everything that raters are shown and asked; `digest` is the SHA-256 of all other fields."""

    format: Literal[1] = 1
    title: str
    created: datetime
    made_by: str
    design: Design
    systems: tuple[System, ...]
    items: tuple[Item, ...]
    clips: tuple[Clip, ...]
    checks: tuple[Check, ...]
    texts: Texts
    raters: tuple[tuple[Page, ...], ...]
    digest: str = ""

    @cached_property
    def clip(self) -> dict[str, Clip]:
        """The clips by id."""
        return {clip.id: clip for clip in self.clips}

    @cached_property
    def group(self) -> dict[str, str]:
        """The group of each item."""
        return {item.name: item.group for item in self.items}

    @cached_property
    def groups(self) -> list[str]:
        """The groups, in the order of the items."""
        return list(dict.fromkeys(item.group for item in self.items))

    def with_digest(self) -> "Study":
        """The same study with its digest filled in."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(mode="json"))})

    def minutes(self, pages: tuple[Page, ...]) -> int:
        """About how long pages take: each clip once, and eight seconds for an answer."""
        seconds = sum(self.clip[clip].seconds for page in pages for clip in page.clips)
        answers = sum(1 if page.kind == PREFERENCE else len(SCALES) for page in pages)
        return max(1, round((seconds + 8 * answers) / 60))


def digest_of(fields: Mapping[str, object]) -> str:
    """SHA-256 of all fields but `digest`, in JSON with sorted keys and no spaces."""
    counted = {name: value for name, value in fields.items() if name != "digest"}
    text = json.dumps(counted, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_study(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        DataError: no study there, or `study.json` was changed since it was built.
    """
    path = folder / STUDY_FILE
    try:
        fields = json.loads(path.read_bytes())
        study = Study.model_validate(fields)
    except ValueError as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "its start"
            reason = f"at {where}: {first['msg']}"
        else:
            reason = f"as JSON: {error}"
        raise DataError(f"{path} is damaged {reason}. Restore it, or build the study again.") from error
    except OSError as error:
        raise DataError(
            f"{folder} holds no study ({path.name} cannot be read: {error.strerror}). "
            "Make one with: lipsmith study build"
        ) from error
    # Of the file's own fields: a newer version, whose records have more of them, must read it too.
    if digest_of(fields) != study.digest:
        raise DataError(
            f"{path} was changed after it was built: its digest does not fit. Restore it, or build the study again."
        )
    return study


def read_links(folder: Path, study: Study) -> list[str]:
    """The secret of each rater's link, in the order of `study.raters`.

    Raises:
        DataError: missing, damaged, or of another study.
    """
    path = folder / LINKS_FILE
    try:
        links = json.loads(path.read_text())
        tokens = [str(token) for token in links["tokens"]]
        digest = links["study"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Restore it, or build the study again.") from error
    if digest != study.digest or len(tokens) != len(study.raters):
        raise DataError(f"{path} belongs to another study. Restore the one that was built with {STUDY_FILE}.")
    return tokens


def damaged_clips(folder: Path, study: Study) -> Iterator[str]:
    """What is wrong with the clips of a study, a sentence each: missing, or not the bytes that were built."""
    for clip in study.clips:
        path = folder / VIDEOS_FOLDER / clip.file
        if not path.is_file():
            yield f"{path} is missing"
        elif path.stat().st_size != clip.num_bytes or file_sha256(path) != clip.sha256:
            yield f"{path} is not the file that was built"


def require_clips(folder: Path, study: Study) -> None:
    """`DataError` unless every clip is there, byte for byte."""
    wrong = list(damaged_clips(folder, study))
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(f"{wrong[0]}{more}. Restore the folder, or build the study again.")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
