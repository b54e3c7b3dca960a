import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lipsmith.errors import DataError, RuntimeUnavailableError, UsageError
from lipsmith.study.storage import Answer, AnswerStore, default_url, read_answers

STUDY = "a" * 64
ANSWERS = (Answer("sync", "clip", 4), Answer("visual", "clip", 3), Answer("overall", "clip", 5))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(default_url(tmp_path))


@pytest.fixture
def own(url: str) -> AnswerStore:
    return AnswerStore(url, STUDY)


def test_saves_and_reads(own: AnswerStore) -> None:
    assert own.save(3, 7, ANSWERS, 12.5)
    (page,) = own.read()
    assert (page.rater, page.page, page.seconds, set(page.answers)) == (3, 7, 12.5, set(ANSWERS))
    assert own.state(3).answered == {7} and not own.state(2).answered


def test_the_first_answer_stands(own: AnswerStore) -> None:
    assert own.save(0, 0, ANSWERS, 1)
    assert not own.save(0, 0, [Answer("sync", "clip", 1)], 2)
    (page,) = own.read()
    assert set(page.answers) == set(ANSWERS) and page.seconds == 1


def test_a_page_is_saved_whole_or_not_at_all(own: AnswerStore) -> None:
    with pytest.raises(ValueError, match="repeat a question"):
        own.save(0, 0, [*ANSWERS, ANSWERS[0]], 1)
    assert own.read() == [] and not own.state(0).answered


def test_many_submissions_at_once_count_once(own: AnswerStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(
            pool.map(lambda score: own.save(0, 0, [Answer("sync", "clip", score)], 1), [1, 2, 3, 4, 5] * 4)
        )
    assert outcomes.count(True) == 1
    (page,) = own.read()
    assert page.answers[0].score == ([1, 2, 3, 4, 5] * 4)[outcomes.index(True)]


def test_places_are_given_once(own: AnswerStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda _: own.join_any(5), range(8)))
    assert sorted(place for place in places if place is not None) == [0, 1, 2, 3, 4]
    assert places.count(None) == 3


def test_consent(own: AnswerStore) -> None:
    assert not own.state(1).consented
    own.consent(1)
    own.consent(1)
    assert own.state(1).consented and own.joined() == {1}


def test_studies_share_a_database(url: str, own: AnswerStore) -> None:
    other = AnswerStore(url, "b" * 64)
    own.save(0, 0, ANSWERS, 1)
    assert other.read() == [] and other.save(0, 0, ANSWERS, 1)
    assert len(own.read()) == 1


def test_sqlite_syncs_each_commit_to_disk(own: AnswerStore, tmp_path: Path) -> None:
    with own._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    own.close()
    with sqlite3.connect(tmp_path / "answers.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_saved_answers_outlive_a_kill(url: str) -> None:
    """A process saves pages one after the other and says so, until SIGKILL: what it said is there."""
    script = (
        "import itertools, sys\n"
        "from lipsmith.study.storage import Answer, AnswerStore\n"
        f"store = AnswerStore({url!r}, {STUDY!r})\n"
        "for page in itertools.count():\n"
        "    store.save(0, page, [Answer('sync', 'clip', 1 + page % 5)], 1.0)\n"
        "    print(page, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        said += [int(line) for line in process.stdout if line.strip()]
    saved = {page.page: page.answers for page in AnswerStore(url, STUDY).read()}
    assert set(said) <= set(saved)
    assert all(answers == (Answer("sync", "clip", 1 + page % 5),) for page, answers in saved.items())


@pytest.mark.parametrize("name", ["what?now", "50%25 of #2", "a b"])
def test_a_folder_of_any_name_holds_its_own_answers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    store = AnswerStore(default_url(tmp_path / name), STUDY)
    store.save(0, 0, ANSWERS, 1)
    store.close()
    assert [path.name for path in (tmp_path / name).iterdir()] == ["answers.sqlite3"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(read_answers(tmp_path / name, None, STUDY)) == 1


class TestReading:
    def test_nobody_has_answered(self, tmp_path: Path, own: AnswerStore) -> None:
        own.close()
        with pytest.raises(DataError, match="holds no answers to this study"):
            read_answers(tmp_path, None, STUDY)
        with pytest.raises(DataError, match="Nobody has answered yet"):
            read_answers(tmp_path / "elsewhere", None, STUDY)

    def test_by_address(self, tmp_path: Path, url: str, own: AnswerStore) -> None:
        own.save(0, 0, ANSWERS, 1)
        assert read_answers(tmp_path / "elsewhere", url, STUDY) == own.read()

    def test_makes_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"There is no database .*typo\.sqlite3"):
            read_answers(tmp_path, f"sqlite:///{tmp_path / 'typo.sqlite3'}", STUDY)
        sqlite3.connect(tmp_path / "other.sqlite3").execute("CREATE TABLE mine (x)").connection.close()
        before = (tmp_path / "other.sqlite3").read_bytes()
        with pytest.raises(DataError, match="holds no answers to this study"):
            read_answers(tmp_path, f"sqlite:///{tmp_path / 'other.sqlite3'}", STUDY)
        assert [path.name for path in tmp_path.iterdir()] == ["other.sqlite3"]
        assert (tmp_path / "other.sqlite3").read_bytes() == before

    def test_where_nothing_can_be_written(
        self, tmp_path: Path, url: str, own: AnswerStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own.save(0, 0, ANSWERS, 1)
        pages = own.read()
        own.close()
        before = sorted(tmp_path.iterdir())
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
        assert read_answers(tmp_path, None, STUDY) == pages
        assert "immutable=1" in AnswerStore(url, STUDY, is_read_only=True).place
        assert sorted(tmp_path.iterdir()) == before


class TestAddresses:
    def test_no_address(self) -> None:
        with pytest.raises(UsageError, match="is no address of a database"):
            AnswerStore("answers.db", STUDY)

    @pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
    def test_a_database_that_forgets(self, address: str) -> None:
        with pytest.raises(UsageError, match="in memory, where answers are lost"):
            AnswerStore(address, STUDY)

    def test_a_package_that_is_missing(self) -> None:
        with pytest.raises(RuntimeUnavailableError, match="needs a package"):
            AnswerStore("nosuchdatabase://host/name", STUDY)

    def test_not_a_database(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("not a database, but long enough to have a header\n" * 20)
        with pytest.raises(DataError, match="cannot be used"):
            AnswerStore(f"sqlite:///{tmp_path / 'text'}", STUDY)
