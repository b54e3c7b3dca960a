"""Answers in an SQL database, each page in one transaction: SQLite beside the study, or any that SQLAlchemy opens.

Nothing that identifies a rater is stored: the number of the place in the study, scores, seconds, and the day.
"""

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Column,
    Date,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, OperationalError, SQLAlchemyError

from lipsmith.errors import DataError, RuntimeUnavailableError, UsageError
from lipsmith.study.folder import ANSWERS_FILE

_BUSY_SECONDS = 30
_METADATA = MetaData()
# A rater's row says that the place is taken; consent follows on the same day or later.
_RATERS = Table(
    "lipsmith_study_raters",
    _METADATA,
    Column("study", String(64), primary_key=True),
    Column("rater", Integer, primary_key=True, autoincrement=False),
    Column("joined_on", Date, nullable=False),
)
_CONSENTS = Table(
    "lipsmith_study_consents",
    _METADATA,
    Column("study", String(64), primary_key=True),
    Column("rater", Integer, primary_key=True, autoincrement=False),
    Column("consented_on", Date, nullable=False),
)
# The primary keys make a second submission of the same page fail as a whole: the first one stands.
_PAGES = Table(
    "lipsmith_study_pages",
    _METADATA,
    Column("study", String(64), primary_key=True),
    Column("rater", Integer, primary_key=True, autoincrement=False),
    Column("page", Integer, primary_key=True, autoincrement=False),
    Column("seconds", Float),
    Column("answered_on", Date, nullable=False),
)
_ANSWERS = Table(
    "lipsmith_study_answers",
    _METADATA,
    Column("study", String(64), primary_key=True),
    Column("rater", Integer, primary_key=True, autoincrement=False),
    Column("page", Integer, primary_key=True, autoincrement=False),
    Column("question", String(32), primary_key=True),
    Column("clip", String(32), nullable=False),
    Column("score", Integer),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to one question: a score from 1 to 5 for a clip, or (score None) the clip that is preferred."""

    question: str
    clip: str
    score: int | None


@dataclass(frozen=True, slots=True)
class PageAnswers:
    """What a rater answered on a page; no answers where the rater went on because a video did not play."""

    rater: int
    page: int
    seconds: float | None
    day: date
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class RaterState:
    """How far a rater is: whether there was consent, and the numbers of the pages that were answered."""

    consented: bool
    answered: frozenset[int]


class AnswerStore:
    """The answers to one study.

    Several studies, and several servers, may share a database. SQLite is kept in its write-ahead mode with a full sync
    at each commit: what was committed outlives a crash of the program and of the machine.

    Args:
        url: of the database, as SQLAlchemy writes it (`sqlite:///answers.sqlite3`, `postgresql+psycopg://…`).
        study: digest of the study.
        is_read_only: nothing is made or written, not even the database itself, which may lie where nobody can write.

    Raises:
        UsageError: not an address of a database.
        RuntimeUnavailableError: the package that speaks to it is missing.
        DataError: it cannot be opened, or there is none to read.
    """

    def __init__(self, url: str | URL, study: str, *, is_read_only: bool = False) -> None:
        self._study = study
        self._engine = _open(url, is_read_only)
        self.place = self._engine.url.render_as_string(hide_password=True)
        if is_read_only:
            return
        try:
            _METADATA.create_all(self._engine)
        except SQLAlchemyError as error:
            raise DataError(
                f"The database {self.place} cannot be used: {_in_words(error)}. Check the address and the rights."
            ) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def join(self, rater: int) -> bool:
        """Take a place; False where it was taken before."""
        return self._insert_once([(_RATERS, [{"rater": rater, "joined_on": _today()}])])

    def join_any(self, num_raters: int) -> int | None:
        """Take the first free place of `num_raters`; None where all are taken."""
        while True:
            taken = self.joined()
            free = next((rater for rater in range(num_raters) if rater not in taken), None)
            if free is None or self.join(free):
                return free

    def joined(self) -> set[int]:
        """The places that are taken."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(_RATERS.c.rater).where(_RATERS.c.study == self._study)))

    def consent(self, rater: int) -> None:
        """Note the consent of a rater, who then has a place."""
        self.join(rater)
        self._insert_once([(_CONSENTS, [{"rater": rater, "consented_on": _today()}])])

    def state(self, rater: int) -> RaterState:
        """How far a rater is."""
        with self._engine.connect() as connection:
            consented = connection.scalar(
                select(func.count())
                .select_from(_CONSENTS)
                .where(_CONSENTS.c.study == self._study, _CONSENTS.c.rater == rater)
            )
            pages = connection.scalars(
                select(_PAGES.c.page).where(_PAGES.c.study == self._study, _PAGES.c.rater == rater)
            )
            return RaterState(bool(consented), frozenset(pages))

    def save(self, rater: int, page: int, answers: Sequence[Answer], seconds: float | None) -> bool:
        """Commit the answers to a page; False, and nothing changed, where the page was answered before."""
        is_new = self._insert_once(
            [
                (_PAGES, [{"rater": rater, "page": page, "seconds": seconds, "answered_on": _today()}]),
                (
                    _ANSWERS,
                    [
                        {
                            "rater": rater,
                            "page": page,
                            "question": answer.question,
                            "clip": answer.clip,
                            "score": answer.score,
                        }
                        for answer in answers
                    ],
                ),
            ]
        )
        if not is_new and page not in self.state(rater).answered:
            raise ValueError(f"the answers to page {page} repeat a question")
        return is_new

    def read(self) -> list[PageAnswers]:
        """All answers to the study, by rater and page."""
        answers: dict[tuple[int, int], list[Answer]] = defaultdict(list)
        with self._engine.connect() as connection:
            if not inspect(connection).has_table(_PAGES.name):
                return []
            for row in connection.execute(
                select(_ANSWERS).where(_ANSWERS.c.study == self._study).order_by(_ANSWERS.c.question)
            ):
                answers[row.rater, row.page].append(Answer(row.question, row.clip, row.score))
            pages = connection.execute(
                select(_PAGES).where(_PAGES.c.study == self._study).order_by(_PAGES.c.rater, _PAGES.c.page)
            )
            return [
                PageAnswers(
                    row.rater, row.page, row.seconds, row.answered_on, tuple(answers[row.rater, row.page])
                )
                for row in pages
            ]

    def _insert_once(self, rows: Iterable[tuple[Table, list[dict[str, Any]]]]) -> bool:
        try:
            with self._engine.begin() as connection:
                for table, values in rows:
                    if values:
                        connection.execute(
                            insert(table), [{"study": self._study, **value} for value in values]
                        )
        except IntegrityError:
            return False
        return True


def default_url(folder: Path) -> URL:
    """The SQLite database of a study folder."""
    # Not as text: a folder's name may hold signs that mean something else in an address.
    return URL.create("sqlite", database=str((folder / ANSWERS_FILE).resolve()))


def read_answers(folder: Path, url: str | None, study: str) -> list[PageAnswers]:
    """All answers to a study, from its folder's database or another one.

    Raises:
        DataError: there is no such database, it cannot be read, or it holds no answers to this study.
    """
    if url is None and not (folder / ANSWERS_FILE).exists():
        raise DataError(
            f"Nobody has answered yet: there is no {folder / ANSWERS_FILE}. Serve the study, or name its --database."
        )
    with closing(AnswerStore(url or default_url(folder), study, is_read_only=True)) as store:
        try:
            answers = store.read()
        except SQLAlchemyError as error:
            raise DataError(f"The answers in {store.place} cannot be read: {_in_words(error)}.") from error
        if not answers:
            raise DataError(
                f"{store.place} holds no answers to this study. Serve it first, or name its --database."
            )
        return answers


def _open(url: str | URL, is_read_only: bool) -> Engine:
    try:
        parsed = make_url(url)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        if is_sqlite and parsed.database in (None, "", ":memory:"):
            raise UsageError(
                f"{url} is in memory, where answers are lost; name a file: sqlite:///answers.sqlite3"
            )
        if is_sqlite and is_read_only:
            parsed = _to_be_read(parsed)
        engine = create_engine(
            parsed,
            connect_args={"timeout": _BUSY_SECONDS} if is_sqlite else {},
            pool_pre_ping=not is_sqlite,
        )
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise RuntimeUnavailableError(
            f"The database {str(url).partition('://')[0]} needs a package that is missing ({error}): install it with "
            "pip."
        ) from error
    except ArgumentError as error:
        raise UsageError(
            f"{url!r} is no address of a database; try sqlite:///answers.sqlite3 or postgresql+psycopg://host/name."
        ) from error
    if is_sqlite and not is_read_only:
        event.listen(engine, "connect", _make_durable)
    return engine


def _to_be_read(url: URL) -> URL:
    """The address of an SQLite file that is there, so that it is only read."""
    place = url.database or ""
    if place.startswith("file:"):
        return url
    path = Path(place)
    if not path.is_file():  # opening it would make an empty one
        raise DataError(f"There is no database {path}. Serve the study first, or name its --database.")
    has_log = path.with_name(f"{path.name}-wal").exists()
    if has_log or os.access(path.parent, os.W_OK):
        return url
    # Even to read, SQLite writes beside a file in write-ahead mode, unless told that nobody changes it.
    return URL.create(
        "sqlite", database=f"file:{quote(str(path.resolve()))}", query={"immutable": "1", "uri": "true"}
    )


def _make_durable(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _today() -> date:
    return datetime.now(UTC).date()


def _in_words(error: SQLAlchemyError) -> str:
    cause = error.orig if isinstance(error, OperationalError) and error.orig else error
    return " ".join(str(cause).split())
