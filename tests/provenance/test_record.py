from datetime import UTC, datetime, timedelta, timezone

import pytest

from lipsmith import __version__
from lipsmith.provenance import SyncRecord
from lipsmith.provenance.record import printable


def test_dictionary_and_back_is_the_same_record():
    record = SyncRecord(
        "default", "0f" * 32, "Ünïcode.mp4", "声.wav", 3, 4, created=datetime(2030, 1, 2, 3, tzinfo=UTC)
    )

    fields = record.to_dict()

    assert fields["created"] == "2030-01-02T03:00:00Z"
    assert fields["lipsmith_version"] == __version__
    assert SyncRecord.from_dict(fields) == record


def test_time_is_told_in_utc():
    east = timezone(timedelta(hours=2))
    record = SyncRecord("m", "", "v", "a", 0, 0, created=datetime(2030, 1, 2, 3, tzinfo=east))
    assert record.to_dict()["created"] == "2030-01-02T01:00:00Z"


def test_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        SyncRecord("m", "", "v", "a", 0, 0, created=datetime(2030, 1, 2))


def test_fields_of_later_versions_are_left_out():
    record = SyncRecord("m", "", "v", "a", 1, 2)
    assert SyncRecord.from_dict({**record.to_dict(), "later": 1}) == record


FIELDS = SyncRecord("m", "00", "v", "a", 1, 2).to_dict()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"created": 3},
        {"created": "yesterday"},
        {"model": "m"},
        ["model", "created"],
        "model",
        5,
        FIELDS | {"model_sha256": [1]},
        FIELDS | {"num_frames_changed": "\x1b[31m"},
    ],
)
def test_what_is_no_record_is_a_value_error(fields):
    with pytest.raises(ValueError):
        SyncRecord.from_dict(fields)


def test_names_become_one_line_of_unicode():
    undecodable = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    assert printable(undecodable) == "caf�.mp4"
    assert printable("a\x1b[31m\nb") == "a�[31m�b"
    for name in ("Größe 声 🎬.mp4", "at 3.45\u202fPM.mov", "می\u200cخواهم", "👩\u200d🎤.mp4"):
        assert printable(name) == name
    assert printable("a\u202eb\u2028c\ud800") == "a�b�c�"
