"""The container tag: a sentence in the file's own metadata that ffprobe and media players show.

It says less than Content Credentials and proves nothing, but it survives where they do not: in Matroska, in
a copy of the streams by FFmpeg, in tools that know no C2PA.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lipsmith.provenance.record import DIGITAL_SOURCE_TYPE, SOFTWARE_NAME, SyncRecord

SYNTHETIC_TAG = "synthetic"
SYNTHETIC_VALUE = "AI-generated lip movements"

_COMMENT = re.compile(
    rf"{SYNTHETIC_VALUE}: made with {SOFTWARE_NAME} (?P<version>\S+), "
    r"model (?P<model>.+) \(sha256 (?P<sha256>[0-9a-f]*)\)"
)


@dataclass(frozen=True)
class ContainerMark:
    """What a container tag says; `model_sha256` in hex."""

    lipsmith_version: str
    model: str
    model_sha256: str


def container_metadata(record: SyncRecord) -> dict[str, str]:
    """Metadata for the writer. `comment` holds everything: mp4, mov, avi and Matroska all keep it."""
    return {
        "comment": (
            f"{SYNTHETIC_VALUE}: made with {SOFTWARE_NAME} {record.lipsmith_version}, "
            f"model {record.model} (sha256 {record.model_sha256}). The person shown did not say this."
        ),
        "description": f"Digital source type: {DIGITAL_SOURCE_TYPE}",
        SYNTHETIC_TAG: SYNTHETIC_VALUE,
    }


def parse_container_tags(tags: Mapping[str, str]) -> ContainerMark | None:
    """The mark in a file's tags, or None. Matroska gives names in capitals."""
    for name, value in tags.items():
        if name.lower() == "comment" and (found := _COMMENT.search(value)):
            return ContainerMark(found["version"], found["model"], found["sha256"])
    return None


def read_container_tags(path: Path) -> dict[str, str]:
    """The file's own metadata, names in small letters. Raises InputError when the file is no media file."""
    from lipsmith.media.container import open_input

    with open_input(path) as container:
        return {name.lower(): value for name, value in container.metadata.items()}
