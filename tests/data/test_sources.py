"""What there is to prepare, and what manifests, lists and folders say about it."""

from pathlib import Path

import pytest

from lipsmith.data.sources import find_sources, read_file_lists, read_manifest
from lipsmith.errors import DataError


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_videos_and_folders_of_pictures_are_found_in_order(tmp_path: Path) -> None:
    _touch(
        tmp_path, "b/two.mp4", "a/one.MKV", "a/notes.txt", "lrs2/v1/00002/0.jpg", "lrs2/v1/00002/audio.wav"
    )
    _touch(tmp_path, "lrs2/v1/00001/7.jpg", "posters/cover.jpg")
    found = find_sources([tmp_path])
    assert [(source.name, source.kind) for source in found] == [
        ("a/one.MKV", "video"),
        ("b/two.mp4", "video"),
        ("lrs2/v1/00001", "pictures"),
        ("lrs2/v1/00002", "pictures"),
    ]
    assert [source.facts["speaker"] for source in found] == ["a", "b", "v1", "v1"]


def test_the_first_folder_of_an_imported_layout_is_its_split(tmp_path: Path) -> None:
    _touch(
        tmp_path, *(f"{split}/v1/00001/0.jpg" for split in ("main", "pretrain", "test", "trainval", "val"))
    )
    found = {source.name.partition("/")[0]: source.facts.get("split") for source in find_sources([tmp_path])}
    assert found == {
        "main": None,
        "pretrain": "train",
        "test": "test",
        "trainval": "train",
        "val": "validation",
    }


def test_lists_say_the_split_of_pictures_and_of_videos(tmp_path: Path) -> None:
    _touch(
        tmp_path / "in",
        "main/v1/00001/0.jpg",
        "main/v1/00002/0.jpg",
        "main/v2/00001.mp4",
        "main/v3/00001.mp4",
    )
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("v1/00001\n\n")
    (lists / "val.txt").write_text("v1/00002\n")
    (lists / "test.txt").write_text("v2/00001 NF012345\n")
    (lists / "README.txt").write_text("v3/00001\n")
    found = find_sources([tmp_path / "in"], file_lists=read_file_lists(lists))
    splits = {source.name: source.facts.get("split") for source in found}
    assert splits == {
        "main/v1/00001": "train",
        "main/v1/00002": "validation",
        "main/v2/00001.mp4": "test",
        "main/v3/00001.mp4": None,
    }
    with pytest.raises(DataError, match=r"train\.txt"):
        read_file_lists(tmp_path / "in")


def test_a_manifest_comes_before_folders_and_folders_before_general_facts(tmp_path: Path) -> None:
    _touch(tmp_path, "in/ada/one.mp4", "in/grace/two.mp4")
    manifest = tmp_path / "list.csv"
    manifest.write_text("file,speaker,licence,split\nada/one.mp4,Lovelace,CC0-1.0,valid\n")
    general = {"licence": "CC-BY-4.0", "use": "open"}
    found = find_sources([tmp_path / "in"], read_manifest(manifest), facts=general)
    ada, grace = (source.facts for source in found)
    assert (ada["speaker"], ada["licence"], ada["use"], ada["split"]) == (
        "Lovelace",
        "CC0-1.0",
        "open",
        "validation",
    )
    assert (grace["speaker"], grace["licence"], grace["use"]) == ("grace", "CC-BY-4.0", "open")
    manifest.write_text("file,split\nada/one.mp4,holdout\n")
    with pytest.raises(DataError, match=r"Line 2 of .*list\.csv has the split 'holdout'"):
        read_manifest(manifest)


def test_two_sources_of_the_same_name_are_not_mixed_up(tmp_path: Path) -> None:
    _touch(tmp_path, "a/one.mp4", "b/one.mp4")
    with pytest.raises(DataError, match=r"would both be called one\.mp4"):
        find_sources([tmp_path / "a", tmp_path / "b"])


def test_a_manifest_says_what_it_says_and_folders_the_rest(tmp_path: Path) -> None:
    _touch(tmp_path, "in/ada/one.mp4", "in/ada/two.25fps.mp4")
    manifest = tmp_path / "list.csv"
    manifest.write_bytes(
        "file,speaker,licence\nada/one.mov,,CC0-1.0\nada/two.25fps.mp4,Lovelace,\n".encode("utf-8-sig")
    )
    one, two = (source.facts for source in find_sources([tmp_path / "in"], read_manifest(manifest)))
    assert (one["speaker"], one["licence"]) == ("ada", "CC0-1.0")
    assert two["speaker"] == "Lovelace"  # what follows a dot is no suffix of a video


def test_an_end_that_several_lines_have_names_nobody(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("file,speaker\na/x/one.mp4,Ada\nb/x/one.mp4,Grace\nb/two.mp4,Grace\n")
    found = read_manifest(manifest)
    assert found.row("x/one.mp4") is None and found.row("one") is None
    assert found.row("two.mkv") == found.row("b/two") and found.row("b/two") is not None


def test_a_manifest_or_lists_that_name_none_of_the_footage_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _touch(tmp_path, "in/v1/00001/0.jpg", "in/v1/00002/0.jpg")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("main/v1/00001\n")
    with pytest.raises(
        DataError, match=r"None of the 2 .* the lists of clips: .*'main/v1/00001' there.*'v1/00001'"
    ):
        find_sources([tmp_path / "in"], file_lists=read_file_lists(lists))
    (lists / "train.txt").write_text("v1/00001\n")
    find_sources([tmp_path / "in"], file_lists=read_file_lists(lists))
    assert "1 of 2 videos or folders are not named in the lists of clips (the first: v1/00002)" in caplog.text
    manifest = tmp_path / "list.csv"
    manifest.write_text("file,speaker\nmain/v1/00001,Ada\n")
    with pytest.raises(DataError, match="is named in the manifest"):
        find_sources([tmp_path / "in" / "v1" / "00002"], read_manifest(manifest))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file,speaker\n,Ada\n", "Line 2 of .* names no file"),
        (b"speaker,file\nAda\n", "Line 2 of .* names no file"),
        (b"file,speaker\na.mp4,Ren\xe9\n", "no table in UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_manifest_that_is_none_is_an_error_in_a_sentence(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    manifest = tmp_path / "list.csv"
    if content is not None:
        manifest.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_manifest(manifest)
