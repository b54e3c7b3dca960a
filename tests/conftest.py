"""Fixtures that every test folder shares."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the folder shared/{name} is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """Folder of real clips beside the checkout; skips where it is absent."""
    return _shared("clips")


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of reference numbers beside the checkout; skips where it is absent."""
    return _shared("parity")
