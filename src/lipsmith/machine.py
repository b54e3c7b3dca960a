"""This machine: its processor, and where what was learned of it is kept."""

import contextlib
import math
import os
import platform
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import platformdirs

LEARNING_VARIABLE = "LIPSMITH_TUNING"
"""`off`: nothing that is learned of this machine is read or written, neither speeds nor compiled networks."""
CACHE_VARIABLE = "LIPSMITH_CACHE"
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def is_learning_on() -> bool:
    """Whether the environment allows to remember what is learned of this machine."""
    return os.environ.get(LEARNING_VARIABLE, "").strip().lower() not in ("off", "0", "no", "false")


def user_cache_folder() -> Path:
    """Where everything is that can be made anew; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("lipsmith"))


def usable_cores() -> int:
    """How many processors this process may use: those that it may run on, or fewer by the quota of its container."""
    return core_quota() or _permitted_cores()


def core_quota(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int | None:
    """Processors' worth of time that a container grants, rounded up; None where that limits nothing.

    More threads than that only wait for each other: all are stopped together when the time is used up.

    Args:
        cgroups: where Linux shows its control groups, of version 1 or 2.
        membership: the file that says which of them this process belongs to.
    """
    limits = [limit for folder in _groups(cgroups, membership) if (limit := _quota_of(folder)) is not None]
    quota = math.ceil(min(limits)) if limits else _permitted_cores()
    return quota if quota < _permitted_cores() else None


def _permitted_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(cgroups: Path, membership: Path) -> Iterator[Path]:
    """The control groups that limit this process's time: its own and all above it, as far as they are in sight."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":  # version 2, alone or beside version 1
            roots = [cgroups, cgroups / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [cgroups / controllers, cgroups / "cpu"]
        else:
            continue
        parts = [] if "/.." in path else path.strip("/").split("/")
        for root in roots:
            yield root
            yield from (root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))


def _quota_of(group: Path) -> float | None:
    """Processors' worth of time that one control group grants; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        granted = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        return (
            granted / int((group / "cpu.cfs_period_us").read_text(encoding="ascii")) if granted > 0 else None
        )
    return None


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
