"""Compiled networks, kept in the user's cache folder so that the next start need not compile them.

Each file begins with the sha256 of the rest, because OpenVINO itself takes a blob with changed weights for a good one.
Whatever is wrong with a file, it is ignored and written anew: a cache that cannot be used costs time, never a result.
"""

import contextlib
import hashlib
import os
import platform
import tempfile
from pathlib import Path

from lipsmith.machine import processor_name, user_cache_folder

_MOST_BYTES = (
    64 * 2**20
)  # of one network: larger ones cost more to read and verify than compiling them is worth
_MOST_FILES = 24
_DIGEST_BYTES = hashlib.sha256().digest_size


def compiled_path(*known_by: str) -> Path:
    """Where a network is kept that is compiled for this processor and known by these words."""
    words = "\n".join([processor_name(), platform.machine(), *known_by])
    return user_cache_folder() / "compiled" / f"{hashlib.sha256(words.encode()).hexdigest()[:40]}.blob"


def read_compiled(path: Path) -> bytes | None:
    """What `keep_compiled` wrote; None where there is nothing, or something else."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(memoryview(content)[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            return None
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a cache that came with an image of a machine may be read alone
        os.utime(path)  # the least recently used go first
    return content[_DIGEST_BYTES:]


def keep_compiled(path: Path, blob: bytes) -> None:
    """Keep `blob` at `path`, all of it or nothing, and throw out what was not used for long."""
    if len(blob) > _MOST_BYTES:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".blob-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(blob).digest())
                file.write(blob)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        kept = sorted(path.parent.glob("*.blob"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in kept[_MOST_FILES:]:
            old.unlink(missing_ok=True)
