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
