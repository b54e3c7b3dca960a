"""Fixtures that every test folder shares."""

import os
import signal
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the folder shared/{name} is not beside this checkout")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: no worker is to begin with one when the others are nearly done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """Folder of real clips beside the checkout; skips where it is absent."""
    return _shared("clips")


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of reference numbers beside the checkout; skips where it is absent."""
    return _shared("parity")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Shells start background jobs with SIGINT ignored, and children inherit that: tests of interrupts need it back."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _untuned() -> None:
    """What a runtime learns of this machine's speed belongs to its user, not to tests."""
    os.environ["LIPSMITH_TUNING"] = "off"
