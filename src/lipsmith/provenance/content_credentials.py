"""Content Credentials: a signed C2PA manifest in the file, or beside it where the container cannot carry one.

The manifest says: this file was made by Lipsmith, by opening this video (`parentOf`) and editing it with a
trained model that heard this speech (`inputTo`). A source that carries a manifest of its own keeps it,
inside of ours. Nothing is looked up or sent over a network, at signing and at reading.

mp4, m4v and mov carry the manifest. Every other container (Matroska, avi, …) has it in a sidecar file of
the same name that ends in `.c2pa`, where C2PA readers look for it.
"""

import hashlib
import io
import json
import mimetypes
import os
import secrets
import shutil
import struct
import tempfile
import wave
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lipsmith.errors import InputError, OutputError, ProvenanceError
from lipsmith.provenance.identity import CLAIM_SIGNING_USAGES, Identity, load_or_create_identity
from lipsmith.provenance.record import (
    DIGITAL_SOURCE_TYPE,
    SOFTWARE_NAME,
    SyncRecord,
    iso_time,
    printable,
)

RECORD_ASSERTION = "lipsmith.sync"
SOURCE_HASH_FIELD = "lipsmith.sha256"
_NOTHING_SOURCE_TYPE = "http://c2pa.org/digitalsourcetype/empty"

_EMBEDDING_FORMATS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime"}
_FORMATS = {
    **_EMBEDDING_FORMATS,
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".flv": "video/x-flv",
    ".avi": "video/avi",
    ".ts": "video/mp2t",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".wmv": "video/x-ms-wmv",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}

# No network: a manifest kept elsewhere is not fetched, and no service hears who looks at which file. Of the purposes
# that certificates may have, c2pa knows only e-mail protection by itself.
READING_SETTINGS: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "trust": {"trust_config": "\n".join(CLAIM_SIGNING_USAGES)},
}

_BLOCK_BYTES = 1 << 20

# Left to itself, c2pa holds the file in memory twice, up to 512 MB each: hashed as one range, and written
# through a memory buffer. Hashing the media data in leaves of a tree, and a small buffer, keep it below 50
# MB at any length; what exceeds the buffer goes through an unnamed file in the system's temporary folder, or beside the
# video.
_LEAF_KB = 1024  # read as a whole; each adds 32 bytes to the manifest
_BUFFER_MB = 8


@dataclass(frozen=True)
class Signature:
    """Where the manifest is: `sidecar` is None when in the file itself. `notes` are warnings for the user.

    A sidecar of a file that has not its name yet waits under a hidden one for `place`, or vanishes with this object.
    """

    sidecar: Path | None
    notes: tuple[str, ...] = ()
    _waiting: Path | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self._waiting is not None:
            weakref.finalize(self, self._waiting.unlink, missing_ok=True)

    def place(self) -> None:
        """Put the sidecar beside its file, once that has its name; `OutputError` where this fails."""
        if self._waiting is None or self.sidecar is None:
            return
        try:
            self._waiting.replace(self.sidecar)
        except OSError as error:
            raise OutputError(
                f"The video is finished, but its Content Credentials cannot be put beside it as {self.sidecar}: "
                f"{error.strerror or error}. Its tag says it is synthetic."
            ) from error

    @property
    def is_embedded(self) -> bool:
        """Whether the manifest is in the media file itself."""
        return self.sidecar is None


def can_embed(path: Path) -> bool:
    """Whether files of this name's ending carry the manifest themselves; else it goes to `sidecar_path`."""
    return path.suffix.lower() in _EMBEDDING_FORMATS


def sidecar_path(path: Path) -> Path:
    """Where the manifest of a file lies that cannot carry it: the same name ending in `.c2pa`."""
    return path.with_suffix(".c2pa")


def media_format(path: Path) -> str:
    """The MIME type that the name's ending stands for."""
    suffix = path.suffix.lower()
    return _FORMATS.get(suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def sign(
    path: Path,
    record: SyncRecord,
    *,
    parent: Path,
    speech: Path | None = None,
    identity: Identity | None = None,
    output: Path | None = None,
) -> Signature:
    """Sign the finished media file `path` in place.

    `parent` is the source video (or picture), `speech` the recording that drives it; both may be of any
    format. `output` is the name that the file will get, when `path` is a temporary name in the same folder:
    it gives the title and the name of a sidecar. A sidecar then is to be put in its place after the file was
    (`Signature.place`), and an earlier one is gone, so that whatever a kill leaves is no pair that does not match.
    `identity` defaults to this computer's own.

    The signed file replaces `path` in one step, after its signature and hash were checked; on any error
    `path` stays as it was. Memory does not grow with the file's length (mp4 and mov; a parent with a
    manifest of its own is hashed in pieces of up to 256 MB). Raises ProvenanceError, InputError for a
    missing source, OutputError when writing fails.
    """
    output = path if output is None else output
    identity = load_or_create_identity() if identity is None else identity
    library = load_library()
    notes: list[str] = []
    sources = [_source(library, parent, "parentOf", "parent", notes)]
    if speech is not None:
        sources.append(_source(library, speech, "inputTo", "speech", notes))
    _require_free_sidecar(output, sources)
    context = library.Context.from_dict(_signing_settings(path, output))
    # c2pa cannot look into these, or shall not: named by title, format and hash, and a manifest that we read.
    opaque = [source for source in sources if source.manifest is not None]

    def signed() -> Signature:
        while True:
            with library.Builder.from_json(
                _definition(record, output, sources, opaque), context=context
            ) as builder:
                for source in sources:
                    if source.manifest is not None:
                        builder.add_resource(source.resource, io.BytesIO(source.manifest.data))
                refused = _add_sources(
                    library, builder, [source for source in sources if source not in opaque]
                )
                if refused is None:
                    return _write_signed(library, builder, identity, path, output, tuple(notes))
                source, why = refused
                opaque.append(source)
                notes.append(
                    f"Content Credentials of {source.path.name}, if it has any, could not be read and are not "
                    f"passed on: {why}"
                )

    try:
        return signed()
    except _NoRoomError:
        # Often the system's folder is in memory, and an hour of video is too much for it: where the video is, there is
        # more room.
        with _temporary_files_in(path.parent):
            return signed()


def _signing_settings(path: Path, output: Path) -> dict[str, Any]:
    core: dict[str, Any] = {"backing_store_memory_threshold_in_mb": _BUFFER_MB}
    if can_embed(output) and _num_media_data_boxes(path) == 1:
        core |= {"merkle_tree_chunk_size_in_kb": _LEAF_KB, "merkle_tree_max_proofs": 0}
    checks = {"verify_after_sign": True, "verify_after_sign_hash": True}
    return {
        **READING_SETTINGS,
        "verify": READING_SETTINGS["verify"] | checks,
        "builder": {"thumbnail": {"enabled": False}},
        "core": core,
    }


def load_library() -> Any:
    """The c2pa module: 20 MB of native code, loaded only when a file is signed or inspected."""
    try:
        import c2pa
    except (ImportError, OSError, RuntimeError) as error:
        raise ProvenanceError(
            f"The library for Content Credentials (c2pa-python) does not load: {error}. "
            "Reinstall it, or turn provenance off."
        ) from error
    return c2pa


def open_manifest(library: Any, path: Path, file: IO[bytes], context: Any) -> tuple[Any, Path | None] | None:
    """A c2pa reader over the manifest of the media file `path`, open as `file`; None where there is none.

    With it comes the sidecar that the manifest was found in, or None when the file itself carries it. Raises
    c2pa's error for a manifest that cannot be parsed.
    """
    try:
        reader = library.Reader.try_create(media_format(path), file, context=context)
    except library.C2paError.NotSupported:
        reader = None  # a container that cannot carry a manifest
    if reader is not None:
        return reader, None
    sidecar = sidecar_path(path)
    if sidecar == path or not sidecar.is_file():
        return None
    file.seek(0)
    reader = library.Reader.try_create(media_format(path), file, sidecar.read_bytes(), context=context)
    return None if reader is None else (reader, sidecar)


def is_of_another_file(store: Mapping[str, Any], path: Path) -> bool:
    """Whether a sidecar that was read beside `path`, and does not fit it, is of a file that only ends otherwise.

    `talk.mp4` and `talk.mkv` have one name for their sidecars; the manifest's title tells whose it is.
    """
    title = store["manifests"].get(store.get("active_manifest"), {}).get("title") or ""
    ending = Path(title).suffix.lower()
    return store.get("validation_state") == "Invalid" and ending not in ("", path.suffix.lower())


@dataclass(frozen=True)
class _Manifest:
    """A source's manifest from its sidecar, with what c2pa found when checking it."""

    data: bytes
    active: str
    validation: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    path: Path
    relationship: str
    label: str
    sha256: str
    manifest: _Manifest | None

    @property
    def resource(self) -> str:
        return f"{self.label}.c2pa"

    def ingredient(self) -> dict[str, Any]:
        fields = {
            "title": printable(self.path.name),
            "format": media_format(self.path),
            "relationship": self.relationship,
            "label": self.label,
            "metadata": {SOURCE_HASH_FIELD: self.sha256},
        }
        if self.manifest is None:
            return fields
        return fields | {
            "manifest_data": {"format": "application/c2pa", "identifier": self.resource},
            "active_manifest": self.manifest.active,
            "validation_results": self.manifest.validation,
        }


def _sidecar_manifest(library: Any, path: Path, notes: list[str]) -> _Manifest | None:
    """What `path` has for Content Credentials in a sidecar: c2pa passes on embedded ones only."""
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return None
    context = library.Context.from_dict(READING_SETTINGS)
    try:
        with path.open("rb") as file:
            found = open_manifest(library, path, file, context)
            if found is None or found[1] is None:
                return None
            with found[0] as reader:
                store = json.loads(reader.json())
    except library.C2paError as error:
        notes.append(f"The Content Credentials beside {path.name} are not passed on: {error}.")
        return None
    if is_of_another_file(store, path):
        return None
    if store["validation_state"] == "Invalid":
        notes.append(
            f"{sidecar.name} does not belong to {path.name}, or one was changed: it is not passed on."
        )
        return None
    return _Manifest(sidecar.read_bytes(), store["active_manifest"], store["validation_results"])


def _require_free_sidecar(output: Path, sources: list[_Source]) -> None:
    if can_embed(output):
        return
    for source in sources:
        if source.manifest is not None and _same(sidecar_path(output), sidecar_path(source.path)):
            raise OutputError(
                f"The Content Credentials of {output} would replace those of {source.path}, which lie in "
                f"{sidecar_path(source.path)}. Choose another name or folder, or write an mp4."
            )


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _source(library: Any, path: Path, relationship: str, label: str, notes: list[str]) -> _Source:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"The source {path} cannot be read for its record in the output: {error.strerror}."
        ) from error
    return _Source(path, relationship, label, digest, _sidecar_manifest(library, path, notes))


def _definition(
    record: SyncRecord, output: Path, sources: list[_Source], opaque: list[_Source]
) -> dict[str, Any]:
    agent = {"name": SOFTWARE_NAME, "version": record.lipsmith_version}
    when = iso_time(record.created)
    inputs = [source.label for source in sources if source.relationship == "inputTo"]
    edit = {
        "action": "c2pa.edited",
        "when": when,
        "softwareAgent": agent,
        "digitalSourceType": DIGITAL_SOURCE_TYPE,
        "description": f"Lip movements were generated to match other speech, by the model {record.model}.",
    }
    if inputs:
        edit["parameters"] = {"ingredientIds": inputs}
    return {
        "claim_version": 2,
        "claim_generator_info": [agent],
        "title": printable(output.name),
        "format": media_format(output),
        "ingredients": [source.ingredient() for source in opaque],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {"action": "c2pa.opened", "when": when, "parameters": {"ingredientIds": ["parent"]}},
                        edit,
                    ]
                },
            },
            {"label": RECORD_ASSERTION, "data": record.to_dict(), "kind": "Json"},
        ],
    }


def _add_sources(library: Any, builder: Any, sources: list[_Source]) -> tuple[_Source, str] | None:
    """Add what c2pa can look into; the first source that it cannot, with the reason."""
    for source in sources:
        with source.path.open("rb") as file:
            try:
                builder.add_ingredient(source.ingredient(), media_format(source.path), file)
            except library.C2paError as error:
                return source, str(error)
    return None


class _NoRoomError(OutputError):
    """What c2pa wants to put aside could not be written."""


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder.resolve())  # where c2pa looks, each time
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


class _Watched:
    """A file for c2pa, which hides the cause of every failure in a stream: this keeps it."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.error: BaseException | None = None

    def _guard(self, method: Any, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except BaseException as error:
            self.error = error
            # c2pa stops at an Exception only: an interrupt it would take for the end of the file.
            raise OSError("stopped") from error

    def readinto(self, buffer: Any) -> int:
        return self._guard(self._file.readinto, buffer)  # type: ignore[attr-defined]

    def read(self, size: int = -1) -> bytes:
        return self._guard(self._file.read, size)

    def write(self, data: bytes) -> int:
        return self._guard(self._file.write, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._guard(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._guard(self._file.tell)

    def flush(self) -> None:
        self._guard(self._file.flush)


def _write_signed(
    library: Any, builder: Any, identity: Identity, path: Path, output: Path, notes: tuple[str, ...]
) -> Signature:
    """Sign `path` in place, or write the sidecar of `output`."""
    partial = path.with_name(f".{path.stem}.signing-{secrets.token_hex(4)}{path.suffix}")
    try:
        with (
            _signer(library, identity) as signer,
            path.open("rb") as source_file,
            partial.open("x+b", buffering=_BLOCK_BYTES) as target_file,
        ):
            source, target = _Watched(source_file), _Watched(target_file)
            if not can_embed(output):
                builder.set_no_embed()
            failure = None
            try:
                manifest = builder.sign(signer, media_format(output), source, target)
            except library.C2paError as error:
                failure = error
            if cause := target.error or source.error:
                raise cause from failure
            if isinstance(failure, library.C2paError.Io) and path.stat().st_size > _BUFFER_MB << 20:
                raise _NoRoomError(
                    f"{output} could not be signed: {failure}. Signing needs room for a copy of the file, in "
                    f"{tempfile.gettempdir()} or in {path.parent}; the variable TMPDIR names another folder."
                ) from failure
            if failure is not None:
                raise ProvenanceError(
                    f"{output.name} could not be signed: {_in_line(failure)}.{_advice(identity)}"
                ) from failure
            target_file.flush()
            os.fsync(target_file.fileno())
        if can_embed(output):
            with suppress(OSError):  # of file systems without modes: shares, sticks, drives of Windows
                shutil.copymode(path, partial)
            partial.replace(path)
            return Signature(None, notes)
        sidecar = sidecar_path(output)
        partial.write_bytes(manifest)
        if output == path:
            partial.replace(sidecar)
            return Signature(sidecar, notes)
        waiting = partial.with_suffix(".c2pa")
        partial.replace(waiting)
        signature = Signature(sidecar, notes, waiting)
        sidecar.unlink(missing_ok=True)
        return signature
    except OSError as error:
        raise OutputError(f"{output} could not be signed: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def try_signing(identity: Identity) -> None:
    """Sign a millisecond of silence, in memory: what is wrong with an identity shows before long work, not after it.

    Raises:
        ProvenanceError: `identity` cannot sign Content Credentials.
    """
    library = load_library()
    definition = {
        "claim_version": 2,
        "claim_generator_info": [{"name": SOFTWARE_NAME}],
        "title": "silence.wav",
        "format": "audio/wav",
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": _NOTHING_SOURCE_TYPE}]},
            }
        ],
    }
    silence = io.BytesIO()
    with wave.open(silence, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16))
    silence.seek(0)
    settings = READING_SETTINGS | {"verify": READING_SETTINGS["verify"] | {"verify_after_sign": True}}
    context = library.Context.from_dict(settings)
    try:
        with (
            _signer(library, identity) as signer,
            library.Builder.from_json(definition, context=context) as builder,
        ):
            builder.sign(signer, "audio/wav", silence, io.BytesIO())
    except library.C2paError as error:
        raise ProvenanceError(
            f"{identity.name} cannot sign: {_in_line(error)}.{_advice(identity)}"
        ) from error


def _in_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _signer(library: Any, identity: Identity) -> Any:
    # An empty string as time-stamp address would be called; None is "no time stamp".
    info = library.C2paSignerInfo(identity.algorithm.encode(), identity.chain_pem, identity.key_pem, None)
    try:
        return library.Signer.from_info(info)
    except library.C2paError as error:
        raise ProvenanceError(
            f"{identity.name} cannot sign: {_in_line(error)}.{_advice(identity)}"
        ) from error


def _advice(identity: Identity) -> str:
    return (
        ""
        if identity.is_local
        else " The certificate may not suit Content Credentials; the local identity needs none."
    )


def _num_media_data_boxes(path: Path) -> int:
    """How many `mdat` boxes an ISO media file has at its top level; c2pa gets the tree of several wrong."""
    count = 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        position = 0
        while position + 8 <= end:
            file.seek(position)
            size, kind = struct.unpack(">I4s", file.read(8))
            if size == 1:
                size = struct.unpack(">Q", file.read(8).rjust(8, b"\0"))[0]
            elif size == 0:
                size = end - position
            if size < 8:
                break
            count += kind == b"mdat"
            position += size
    return count
