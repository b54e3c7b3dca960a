"""What a training ran with: versions, commit, machine, data."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lipsmith
from lipsmith.data.clips import index_digest
from lipsmith.data.storage import Location

_GIT_SECONDS = 5


def describe_environment(data: Location | None, num_processes: int = 1) -> dict[str, Any]:
    """JSON-ready facts about this process, how many train together, and the digest of the prepared folder's index.

    `commit` is None where the package is not in a repository of its own, or git is not installed; a commit whose
    working tree has changes ends in "+changes".
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "lipsmith": lipsmith.__version__,
        "commit": package_commit(Path(lipsmith.__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": num_processes,
        "data_index_sha256": None if data is None else index_digest(data),
    }


def package_commit(package: Path) -> str | None:
    """The git commit that the package folder is of, if it is tracked by a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An environment inside of somebody's project is in a repository, but not of it.
    if not git("ls-files", "--", "__init__.py"):
        return None
    commit = git("rev-parse", "HEAD")
    if commit and git("status", "--porcelain", "--untracked-files=no", "--", "."):
        return f"{commit}+changes"
    return commit
