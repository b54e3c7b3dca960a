"""Trying divisions of the work, and remembering the best."""

import json
from pathlib import Path

import pytest

import lipsmith.runtime.tuning as tuning
from lipsmith.machine import is_learning_on
from lipsmith.runtime.tuning import Division, Trial, candidates, division_key, recall, remember

FIRST, SECOND, THIRD = CHOICES = [Division(4, 2), Division(8, 1), Division(2, 4)]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of the test's own; the file that is written there."""
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "divisions.json"


def finished(rates: dict[Division, float]) -> Trial:
    """A trial on a machine that makes so many faces a second."""
    trial = Trial(CHOICES)
    while not trial.is_over:
        trial.add(8, 8 / rates[trial.division])
    return trial


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        (1, [(4, 1), (8, 1)]),
        (2, [(4, 2), (8, 1)]),
        (4, [(2, 4), (4, 2), (8, 1)]),
        (16, [(2, 4), (4, 2), (8, 1), (1, 8)]),
    ],
)
def test_candidates_fill_a_call_of_eight(threads: int, expected: list[tuple[int, int]]) -> None:
    assert candidates(threads) == [Division(*pair) for pair in expected]


@pytest.mark.parametrize(
    ("division", "num_rows", "expected"),
    [
        (FIRST, 8, 4),
        (FIRST, 3, 2),  # 2 + 1 at once, not 3 on one stream
        (FIRST, 1, 1),
        (FIRST, 75, 4),
        (SECOND, 3, 3),
        (SECOND, 9, 8),
    ],
)
def test_rows_are_spread_over_streams(division: Division, num_rows: int, expected: int) -> None:
    assert division.rows_together(num_rows) == expected


def test_the_fastest_wins() -> None:
    trial = finished({FIRST: 50.0, SECOND: 40.0, THIRD: 60.0})
    assert trial.best == trial.division == THIRD
    assert trial.rates == pytest.approx({FIRST: 50.0, SECOND: 40.0, THIRD: 60.0})


def test_a_gain_that_may_be_noise_changes_nothing() -> None:
    assert finished({FIRST: 50.0, SECOND: 52.0, THIRD: 40.0}).best == FIRST


def test_nothing_is_tried_before_there_is_much_work() -> None:
    trial = Trial(CHOICES)
    for _ in range(tuning.FACES_BEFORE // 8 - 1):
        trial.add(8, 0.1)
    assert (trial.division, trial.rates) == (FIRST, {})


def test_the_first_call_of_a_candidate_does_not_count() -> None:
    trial = Trial(CHOICES)
    while trial.division == FIRST:
        trial.add(8, 0.1)
    trial.add(8, 100.0)  # cold caches
    while trial.division == SECOND:
        trial.add(8, 0.2)
    assert trial.rates[SECOND] == pytest.approx(40.0)


def test_what_was_found_is_remembered_by_key(cache: Path) -> None:
    remember("this machine", finished({FIRST: 50.0, SECOND: 90.0, THIRD: 60.0}))
    remember("another", finished({FIRST: 50.0, SECOND: 40.0, THIRD: 60.0}))
    assert recall("this machine", CHOICES) == SECOND
    assert recall("another", CHOICES) == THIRD
    assert recall("a third", CHOICES) is None
    assert recall("this machine", [FIRST]) is None  # no longer among the candidates
    assert json.loads(cache.read_text())["this machine"]["faces_per_second"] == {
        "4 × 2": 50.0,
        "8 × 1": 90.0,
        "2 × 4": 60.0,
    }
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"key": 3}', '{"key": {"batch": -1, "streams": "x"}}', "\x00"]
)
def test_a_damaged_memory_is_none(cache: Path, content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    assert recall("key", CHOICES) is None
    remember("key", finished({FIRST: 50.0, SECOND: 90.0, THIRD: 60.0}))
    assert recall("key", CHOICES) == SECOND


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "file"))
    remember("key", finished({FIRST: 50.0, SECOND: 90.0, THIRD: 60.0}))
    assert recall("key", CHOICES) is None


def test_the_memory_does_not_grow_for_ever(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_MOST_REMEMBERED", 3)
    for number in range(5):
        remember(f"key {number}", Trial(CHOICES))
    assert list(json.loads(cache.read_text())) == ["key 2", "key 3", "key 4"]


def test_keys_differ_by_network_threads_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        division_key(b"a", 2, ["numpy"]),
        division_key(b"b", 2, ["numpy"]),
        division_key(b"a", 4, ["numpy"]),
    }
    monkeypatch.setattr(tuning, "_version", lambda package: "another")
    assert len(keys | {division_key(b"a", 2, ["numpy"])}) == 4


@pytest.mark.parametrize(("value", "expected"), [("", True), ("on", True), ("off", False), ("0", False)])
def test_the_environment_can_forbid_it(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("LIPSMITH_TUNING", value)
    assert is_learning_on() is expected
