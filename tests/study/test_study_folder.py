import json
import shutil
from pathlib import Path

import pytest

from lipsmith.errors import DataError
from lipsmith.study.folder import STUDY_FILE, digest_of, read_links, read_study, require_clips

from .conftest import Built


@pytest.fixture
def own(built: Built, tmp_path: Path) -> Path:
    """A copy of the study that a test may damage."""
    shutil.copytree(built.folder, tmp_path / "study")
    return tmp_path / "study"


def test_reads_back(built: Built) -> None:
    assert read_study(built.folder) == built.study
    assert read_links(built.folder, built.study) == built.tokens
    require_clips(built.folder, built.study)


def test_digest_of_known_fields() -> None:
    # sha256 of '{"a":1,"b":"é"}' in UTF-8
    expected = "09ad9fd2fb648cb2f62141215828ea00a62c299db05d20aa9ade2f527a301cc6"
    assert digest_of({"b": "é", "digest": "x", "a": 1}) == expected


def test_changed_study_is_refused(own: Path) -> None:
    path = own / STUDY_FILE
    path.write_text(path.read_text().replace('"title": "Faces"', '"title": "Faecs"'))
    with pytest.raises(DataError, match="was changed after it was built"):
        read_study(own)


def test_a_study_with_fields_of_its_time_is_read(own: Path, built: Built) -> None:
    """Texts that a later version adds are missing in an older study; its digest still fits."""
    path = own / STUDY_FILE
    fields = json.loads(path.read_text())
    del fields["texts"]["thanks_more"]
    fields["digest"] = digest_of(fields)
    path.write_text(json.dumps(fields))
    assert read_study(own).texts == built.study.texts


@pytest.mark.parametrize("text", ["", "{", '{"title": 3}', "[1]"])
def test_damaged_study(own: Path, text: str) -> None:
    (own / STUDY_FILE).write_text(text)
    with pytest.raises(DataError, match="is damaged"):
        read_study(own)


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lipsmith study build"):
        read_study(tmp_path)


def test_links_of_another_study(own: Path, built: Built) -> None:
    other = built.study.model_copy(update={"digest": "0" * 64})
    with pytest.raises(DataError, match="belongs to another study"):
        read_links(own, other)


def test_exchanged_and_missing_clips(own: Path, built: Built) -> None:
    first, second = (own / "videos" / clip.file for clip in built.study.clips[:2])
    first.write_bytes(second.read_bytes())
    second.unlink()
    with pytest.raises(DataError, match=r"is not the file that was built, and 1 more"):
        require_clips(own, built.study)
