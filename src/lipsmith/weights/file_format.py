"""What a file that claims to be a checkpoint looks like, told from its bytes alone: nothing in it is run.

What people save as `.pth` is a checkpoint less often than one would think: error pages, pointers of
git-lfs, downloads cut short. Each gets a sentence that says so.
"""

import io
import pickletools
import zipfile
from enum import Enum
from pathlib import Path

from lipsmith.errors import WeightsError

# The long integer that torch's format of before version 1.6 begins with, as pickle protocol 2 writes it.
_TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLE_PROTOCOLS = tuple(bytes((0x80, version)) for version in range(2, 6))
_OTHER_FORMATS = {
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89HDF": "an HDF5 file, as TensorFlow and Keras write them",
    b"GGUF": "a GGUF file, a language model's format",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x08\x03\x12": "an ONNX model",
}
_HEAD_BYTES = 4096


class CheckpointFormat(Enum):
    """The formats that tensors are read from."""

    TORCH_ZIP = "torch (zip)"
    TORCH_LEGACY = "torch (legacy)"
    SAFETENSORS = "safetensors"


def checkpoint_format(path: Path) -> CheckpointFormat:
    """The format of the checkpoint file `path`; `WeightsError` saying what it looks like if it is none."""
    try:
        if path.is_dir():
            raise WeightsError(f"{path} is a folder, not a checkpoint file.")
        if path.exists() and not path.is_file():  # reading a pipe would wait for somebody to write into it
            raise WeightsError(f"{path} is not a regular file, and so no checkpoint.")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise WeightsError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error
    if head.startswith(b"PK\x03\x04"):
        return _zip_format(path)
    if head.startswith(_TORCH_LEGACY_MAGIC):
        return CheckpointFormat.TORCH_LEGACY
    if _is_safetensors(head, size):
        return CheckpointFormat.SAFETENSORS
    raise WeightsError(f"{path} is no checkpoint: {_describe(path, head, size)}.")


def pickled_names(data: bytes) -> list[str]:
    """The functions and classes that unpickling `data` would look up, found without unpickling.

    Up to five pickles one after the other are read, as torch's legacy format has before its raw tensors.
    """
    names: list[str] = []
    stream = io.BytesIO(data)
    for _ in range(5):
        strings: list[str] = []
        try:
            for opcode, argument, _position in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
        except (
            Exception
        ):  # whatever else the bytes are makes the parser fail in many ways: they are no pickle
            break
    return list(dict.fromkeys(names))


def pickle_bytes(path: Path, file_format: CheckpointFormat) -> bytes:
    """The pickled part of a torch file, or its beginning: enough to say what it names; nothing where it is damaged."""
    if file_format is not CheckpointFormat.TORCH_ZIP:
        return _beginning(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    except Exception:  # bytes that are no archive, or another kind of one, fail in many ways
        return b""


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 24)


def _zip_format(path: Path) -> CheckpointFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise WeightsError(
            f"{path} begins like a checkpoint but its end is missing: the download was cut short. "
            "Fetch it again."
        ) from error
    except (ValueError, NotImplementedError) as error:  # of names and versions that damage made up
        raise WeightsError(f"{path} is a damaged torch checkpoint ({error}). Fetch it again.") from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise WeightsError(
            f"{path} is a TorchScript program, which would run code when loaded. "
            "Save its state_dict() instead."
        )
    if "data.pkl" not in inner:
        listing = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise WeightsError(
            f"{path} is a zip archive without tensors ({listing or 'empty'}): unpack it first."
        )
    return CheckpointFormat.TORCH_ZIP


def _is_safetensors(head: bytes, size: int) -> bool:
    header_size = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= header_size <= size - 8


def _describe(path: Path, head: bytes, size: int) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if size == 0:
        return "it is empty"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs, not the file itself. Run `git lfs pull`, or download the file"
    if text.startswith((b"<!doctype html", b"<html")) or b"<html" in text[:1024]:
        return "it is an HTML page, sent in place of the file. Open the link in a browser and download again"
    if text.startswith(b"<?xml") and b"<net" in text:
        return "it is an OpenVINO model. Give the weights folder that holds it, or its checkpoint"
    if text.startswith(b"<"):
        return "it is an XML document"
    if head.startswith(_PICKLE_PROTOCOLS):
        names = pickled_names(_beginning(path))
        listing = f" (it names {', '.join(names[:3])})" if names else ""
        return f"it is a Python pickle{listing}, which was not loaded, since that can run any code"
    for magic, description in _OTHER_FORMATS.items():
        if head.startswith(magic):
            return f"it is {description}"
    if head[4:8] == b"ftyp":
        return "it is a video"
    if len(head) > 262 and head[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    if _is_text(head):
        first = head.decode(errors="ignore").strip().splitlines()
        return f"it is text, beginning “{first[0][:60]}”" if first else "it is blank text"
    return f"its bytes are of no known format (it begins {head[:8].hex(' ')})"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not merely a character cut off at the end
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
