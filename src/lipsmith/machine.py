"""This machine: its processor, and where what was learned of it is kept."""

import contextlib
import os
import platform
from functools import lru_cache
from pathlib import Path

import platformdirs

LEARNING_VARIABLE = "LIPSMITH_TUNING"
"""`off`: nothing that is learned of this machine is read or written, neither speeds nor compiled networks."""
CACHE_VARIABLE = "LIPSMITH_CACHE"


def is_learning_on() -> bool:
    """Whether the environment allows to remember what is learned of this machine."""
    return os.environ.get(LEARNING_VARIABLE, "").strip().lower() not in ("off", "0", "no", "false")


def user_cache_folder() -> Path:
    """Where everything is that can be made anew; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("lipsmith"))


@lru_cache(maxsize=1)
def processor_name() -> str:
    """Model name of the processor."""
    with (
        contextlib.suppress(OSError),
        Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines,
    ):
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
