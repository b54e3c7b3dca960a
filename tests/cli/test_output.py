"""What reaches standard output is whole and, where JSON is asked for, JSON, in any encoding and for any file name."""

import io
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lipsmith.cli.output import write_answer, write_json

NAME = b"b\xe4d.mp4"  # in Latin-1, as old archives leave names behind: no text in UTF-8
Written = Callable[[str, Callable[[], None]], bytes]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """written(encoding, call): the bytes that `call` writes to a strict standard output of that encoding."""

    def write(encoding: str, call: Callable[[], None]) -> bytes:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            call()
            stream.flush()
        return raw.getvalue()

    return write


def test_a_file_name_that_is_no_text_keeps_its_bytes(written: Written) -> None:
    assert written("utf-8", lambda: write_answer(os.fsdecode(NAME))).split() == [NAME]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_json_is_json_whatever_the_names(written: Written, encoding: str) -> None:
    answer = {"path": Path(os.fsdecode(NAME)), "words": "LSE-D − 声"}
    told = json.loads(written(encoding, lambda: write_json(answer)).decode(encoding))
    assert told == {"path": os.fsdecode(NAME), "words": "LSE-D − 声"}


def test_what_an_encoding_lacks_is_escaped(written: Written) -> None:
    assert written("cp1252", lambda: write_answer("a − b")).split() == [b"a", b"\\u2212", b"b"]


def test_what_is_not_finite_is_null(written: Written) -> None:
    answer = {"best": math.inf, "all": [math.nan, 1.5]}
    told = written("utf-8", lambda: write_json(answer))
    assert json.loads(told, parse_constant=pytest.fail) == {"best": None, "all": [None, 1.5]}
