from pathlib import Path

import av
import pytest

from lipsmith.errors import InputError
from lipsmith.provenance import SyncRecord, container_metadata
from lipsmith.provenance.container import ContainerMark, parse_container_tags, read_container_tags


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".avi"])
def test_mark_survives_the_container(make_video, suffix):
    path = make_video(f"video{suffix}", tagged=True)
    assert parse_container_tags(read_container_tags(path)) == ContainerMark("0.1.0", "default", "ab" * 32)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_mark_survives_the_tags_that_the_writer_asks_for(tmp_path, record, write_video, suffix):
    path = tmp_path / f"video{suffix}"
    write_video(path, container_metadata(record), {"movflags": "+faststart+use_metadata_tags"})
    tags = read_container_tags(path)
    assert parse_container_tags(tags) == ContainerMark("0.1.0", "default", "ab" * 32)
    assert tags["synthetic"] == "AI-generated lip movements"


@pytest.mark.parametrize("model", ["default", "mine (v2)", "größer, 声", "a model (sha256 00)"])
def test_any_model_name_is_read_back(model):
    record = SyncRecord(model, "12ef", "v.mp4", "a.wav", 1, 0, lipsmith_version="9.9.1rc1")
    assert parse_container_tags(container_metadata(record)) == ContainerMark("9.9.1rc1", model, "12ef")


def test_names_of_tags_may_be_capitals():
    record = SyncRecord("m", "00", "v.mp4", "a.wav", 1, 0)
    tags = {name.upper(): value for name, value in container_metadata(record).items()}
    assert parse_container_tags(tags) == ContainerMark(record.lipsmith_version, "m", "00")


def test_mark_survives_a_copy_of_the_streams(make_video, tmp_path):
    path = make_video("video.mp4", tagged=True)
    copy = tmp_path / "copy.mkv"
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        target.metadata.update(source.metadata)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    mark = parse_container_tags(read_container_tags(copy))
    assert mark is not None and mark.model == "default"


def test_another_comment_is_no_mark():
    assert parse_container_tags({"comment": "shot on a phone", "title": "AI-generated lip movements"}) is None


def test_text_file_is_no_media(tmp_path: Path):
    path = tmp_path / "video.mp4"
    path.write_text("not a video")
    with pytest.raises(InputError, match=r"video\.mp4 is not a video, sound or image"):
        read_container_tags(path)
