from pathlib import Path

import pytest

from lipsmith.errors import InputError
from lipsmith.study.texts import Texts, read_texts


def write(folder: Path, text: str) -> Path:
    path = folder / "texts.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_left_out_stays_english(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'language = "hi"\nstart = "शुरू करें"\nconsent = ["एक"]\n'
        '[sync]\nname = "मेल"\nquestion = "?"\nlowest = "-"\nhighest = "+"\n',
    )
    texts = read_texts(path)
    assert (texts.language, texts.start, texts.consent, texts.sync.name) == ("hi", "शुरू करें", ("एक",), "मेल")
    assert texts.next == Texts().next


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('begin = "x"', "begin"),
        ('direction = "up"', "direction"),
        ('page = "{numbr}"', "allowed here: {number}, {total}"),
        ('start = "{name}"', "allowed here: none"),
        ("start = ", "cannot be read as TOML"),
    ],
)
def test_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        read_texts(write(tmp_path, text))
    assert said in str(error.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(tmp_path / "none.toml")
