"""Where prepared clips lie: a folder of this machine or of a cluster's file system, a web address, or a bucket.

From a web address or a bucket, whole files are fetched once into the cache folder and read from there: training reads
every shard over and over, in random order. http(s) needs nothing more; other addresses (`s3://…`, `gs://…`) are opened
by fsspec with the package that it names for them.
"""

import errno
import hashlib
import http.client
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from lipsmith.errors import DataError, OutputError
from lipsmith.machine import user_cache_folder

Location = Path | str

_ADDRESS = re.compile(r"([a-z][a-z0-9+]+):/+(.+)")
_TRIES = 3
_TIMEOUT_SECONDS = 60
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Storage(Protocol):
    """A place that prepared clips are read from."""

    def read(self, name: str, offset: int = 0, size: int | None = None, *, fresh: bool = False) -> bytes:
        """`size` bytes of file `name` from `offset` on, or all.

        `fresh` asks for the file as it is now. Raises `DataError`, in a few words, when the bytes are not there.
        """
        ...

    def renew(self, name: str) -> bool:
        """Whether reading `name` again may give other bytes: a copy that was fetched earlier is thrown away."""
        ...

    def place(self, name: str) -> str:
        """Where file `name` lies, for messages."""
        ...


def open_storage(location: Location) -> Storage:
    """The storage at a path or an address."""
    address = as_address(location)
    return LocalStorage(Path(location)) if address is None else RemoteStorage(address)


def as_address(location: Location) -> str | None:
    """`location` as an address, None where it is a path.

    A `Path` made of an address has lost a slash ("https:/host/clips"): it is put back.
    """
    match = _ADDRESS.fullmatch(str(location))
    if match is None or (os.name == "nt" and len(match[1]) == 1):
        return None
    return f"{match[1]}://{match[2]}".rstrip("/")


class LocalStorage:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str, offset: int = 0, size: int | None = None, *, fresh: bool = False) -> bytes:
        """See `Storage.read`."""
        return _read_part(self.folder / name, offset, size)

    def renew(self, name: str) -> bool:
        """See `Storage.renew`."""
        return False

    def place(self, name: str) -> str:
        """See `Storage.place`."""
        return str(self.folder / name)


_fetching = threading.Lock()  # one file at a time, and none twice
_renewed: set[str] = set()


class RemoteStorage:
    """An address whose files are fetched into the cache folder, each once."""

    def __init__(self, address: str) -> None:
        self.address = address
        digest = hashlib.sha256(address.encode()).hexdigest()[:16]
        self.cache = user_cache_folder() / "prepared" / digest

    def read(self, name: str, offset: int = 0, size: int | None = None, *, fresh: bool = False) -> bytes:
        """See `Storage.read`."""
        path = self.cache / name
        with _fetching:
            if fresh or not path.exists():
                self._fetch(name, path)
        return _read_part(path, offset, size)

    def renew(self, name: str) -> bool:
        """See `Storage.renew`; once for each file and process."""
        with _fetching:
            if self.place(name) in _renewed:
                return False
            _renewed.add(self.place(name))
            (self.cache / name).unlink(missing_ok=True)
            return True

    def place(self, name: str) -> str:
        """See `Storage.place`."""
        return f"{self.address}/{name}"

    def _fetch(self, name: str, path: Path) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        for attempt in range(_TRIES):
            try:
                with _opened(self.place(name)) as source:
                    _copy(source, partial)
                os.replace(partial, path)  # noqa: PTH105
                return
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise DataError(f"the server says {error.code} {error.reason}") from error
                problem: Exception = error
            except FileNotFoundError as error:
                raise DataError("no such file") from error
            except (OSError, EOFError, http.client.HTTPException) as error:
                problem = error
            finally:
                partial.unlink(missing_ok=True)
            if attempt + 1 < _TRIES:
                time.sleep(2**attempt)
        raise DataError(f"fetching failed {_TRIES} times: {problem}")


def _copy(source: IO[bytes], path: Path) -> None:
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    with file:
        while part := source.read(1 << 20):
            with room_for(path):
                file.write(part)


@contextmanager
def _opened(address: str) -> Iterator[IO[bytes]]:
    if address.startswith(("http://", "https://")):
        with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as response:
            yield _Measured(response, response.headers.get("Content-Length"))  # type: ignore[misc]
        return
    protocol = address.partition(":")[0]
    try:
        import fsspec

        source = fsspec.open(address, "rb")
    except ImportError as error:
        raise DataError(
            f"Reading {protocol}:// needs another package ({error}): with s3:// it is `pip install fsspec s3fs`."
        ) from error
    except ValueError as error:
        raise DataError(f"{address} cannot be opened: {error}.") from error
    with source as file:
        yield file


class _Measured:
    """A response that is an error when it ends before its stated length."""

    def __init__(self, response: IO[bytes], length: str | None) -> None:
        self._response, self._left = response, None if length is None else int(length)

    def read(self, size: int = -1) -> bytes:
        part = self._response.read(size)
        if self._left is not None:
            self._left -= len(part)
            if not part and self._left > 0:
                raise EOFError("the connection ended early")
        return part


def _read_part(path: Path, offset: int, size: int | None) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(-1 if size is None else size)
    except FileNotFoundError as error:
        raise DataError("no such file") from error
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error
    if size is not None and len(content) < size:
        raise DataError("the file ends too early")
    return content


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Say in one sentence, as `OutputError`, that writing `path` failed, and that the disk is full where it is."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise OutputError(
                f"There is no room left for {path} ({error.strerror}). Nothing that was finished is lost: make room, "
                "then run the same command again."
            ) from error
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises `OutputError`."""
    partial = path.with_name(f".{path.name}.partial")
    with room_for(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, path)  # noqa: PTH105
        except OSError:
            partial.unlink(missing_ok=True)
            raise
