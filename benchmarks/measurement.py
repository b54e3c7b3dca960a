"""What every benchmark shares: a fresh process for each run, its peak memory, and the machine it ran on."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

PACKAGES = ("lipsmith", "openvino", "numpy", "av", "opencv-python-headless", "torch", "nncf")

Result = TypeVar("Result")


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> tuple[Result, float]:
    """What `function(*arguments)` returns in a new interpreter, and the most memory that one held, in MiB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, function, arguments).result()


def _measured(function: Callable[..., Result], arguments: Sequence[object]) -> tuple[Result, float]:
    result = function(*arguments)
    return result, peak_memory_mib()


def peak_memory_mib() -> float:
    """The most memory that this process has held so far (resident set), in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux a new process inherits it from the one that started it.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def run_command(command: Sequence[str]) -> tuple[dict[str, float], str]:
    """Run `command`: its wall and processor seconds and its peak of memory in MiB, and what it printed.

    The peak is at least what this process itself held when it started the command.

    Raises:
        SystemExit: it failed; its words are told.
    """
    with tempfile.TemporaryFile("w+") as answer, tempfile.TemporaryFile("w+") as words:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=answer, stderr=words)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        answer.seek(0)
        words.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {words.read()}")
        peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        figures = {
            "seconds": round(seconds, 3),
            "processor_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "peak_memory_mib": round(peak, 1),
        }
        return figures, answer.read()


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, system, and how busy the machine was when it was asked."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_versions() -> dict[str, str]:
    """Python's version and those of the installed packages that matter to speed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the runs."""
    names = {name: None for run in runs for name in run}
    return {name: round(statistics.median(run[name] for run in runs if name in run), 3) for name in names}


def spread(runs: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Least and most of each figure over the runs."""
    names = {name: None for run in runs for name in run}
    values = {name: [run[name] for run in runs if name in run] for name in names}
    return {name: [round(min(found), 3), round(max(found), 3)] for name, found in values.items()}


def say(words: str) -> None:
    """Tell the person who waits."""
    print(words, file=sys.stderr, flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result there, not to stdout")
    return made


def publish(result: dict[str, Any], path: Path | None) -> None:
    """Write `result`, with machine and versions, as JSON to `path`, or to stdout where there is none."""
    text = json.dumps(result, indent=2, ensure_ascii=False)
    if path is None:
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
        say(f"Written to {path}.")
