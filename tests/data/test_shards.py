"""Shards hold the same clips as files do, any WebDataset reader opens them, and no kill loses a clip."""

import signal
import subprocess
import sys
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from lipsmith.data import storage
from lipsmith.data.clips import (
    Clip,
    ClipRecord,
    encode_crop,
    index_digest,
    load_clip,
    read_index,
    save_clip,
    stored_size,
    write_index,
)
from lipsmith.data.reader import ClipSet
from lipsmith.data.samples import DataSelection, load_split
from lipsmith.data.shards import loose_bytes, pack_clips
from lipsmith.errors import DataError, OutputError

SIDE = stored_size(96)
CROP = encode_crop(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8))


def _write(folder: Path, count: int, first: int = 0) -> list[ClipRecord]:
    records = []
    for number in range(first, first + count):
        # A dot in a name ends WebDataset's key; ü and length ask for more than the plainest tar header.
        name = f"clip.{number:02}-ü{'x' * 100 * (number % 2)}"
        record = ClipRecord(name, f"{number}.mp4", f"speaker {number % 3}", 5, 96, 25.0, 90.0, 1.0)
        times = [Fraction(i * 1001, 30000) for i in range(5)]
        mel = np.full((80, 50), number / 100, np.float32)
        save_clip(Clip(record, [CROP] * 5, times, mel, 3), folder)
        records.append(record)
    write_index(folder, [*(read_index(folder) if first else []), *records])
    return records


def _numbers(folder: Path | str) -> list[int]:
    return [round(float(clip.mel[0, 0]) * 100) for clip in ClipSet(folder, read_index(folder))]


def test_a_packed_clip_is_the_clip_that_was_written(tmp_path: Path) -> None:
    (record, *_) = _write(tmp_path, 5)
    before = load_clip(record, tmp_path)
    size = loose_bytes(tmp_path, read_index(tmp_path)) / 5
    assert pack_clips(tmp_path, shard_bytes=int(1.5 * size)) == 3
    packed = read_index(tmp_path)
    assert [r.shard for r in packed] == ["000000.tar", "000000.tar", "000001.tar", "000001.tar", "000002.tar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.jsonl", "shards"]
    after = load_clip(packed[0], tmp_path)
    assert after.times == before.times and after.mel_first == 3
    np.testing.assert_array_equal(after.mel, before.mel)
    np.testing.assert_array_equal(np.concatenate(after.jpegs), np.concatenate(before.jpegs))
    assert _numbers(tmp_path) == [0, 1, 2, 3, 4]
    assert pack_clips(tmp_path) == 0


def test_what_is_added_later_gets_shards_of_its_own(tmp_path: Path) -> None:
    _write(tmp_path, 3)
    assert pack_clips(tmp_path, only_full=True) == 0
    assert pack_clips(tmp_path) == 1
    first = (tmp_path / "shards" / "000000.tar").read_bytes()
    _write(tmp_path, 2, first=3)
    assert _numbers(tmp_path) == [0, 1, 2, 3, 4]  # in shards and in files
    assert pack_clips(tmp_path) == 1
    assert _numbers(tmp_path) == [0, 1, 2, 3, 4]
    assert (tmp_path / "shards" / "000000.tar").read_bytes() == first


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    records = _write(tmp_path, 4)
    pack_clips(tmp_path)
    dataset = webdataset.WebDataset(str(tmp_path / "shards" / "000000.tar"), shardshuffle=False).decode()
    samples = list(dataset)
    assert [sample["json"]["id"] for sample in samples] == [record.id for record in records]
    for number, sample in enumerate(samples):
        assert sample["npz"]["mel"][0, 0] == pytest.approx(number / 100)
        assert sample["npz"]["lengths"].tolist() == [len(CROP)] * 5


def test_one_corrupt_shard_costs_its_own_clips_and_no_more(tmp_path: Path) -> None:
    _write(tmp_path, 12)
    size = loose_bytes(tmp_path, read_index(tmp_path)) / 12
    assert pack_clips(tmp_path, shard_bytes=int(2.5 * size)) == 4
    path = tmp_path / "shards" / "000001.tar"
    content = bytearray(path.read_bytes())
    content[1000::97] = bytes(len(content[1000::97]))
    path.write_bytes(content)
    clips = ClipSet(tmp_path, read_index(tmp_path))
    assert [clip.record.source for clip in clips] == [f"{i}.mp4" for i in (0, 1, 2, 6, 7, 8, 9, 10, 11)]
    assert clips.skips.reasons == {"damaged": 3}
    path.unlink()
    missing = ClipSet(tmp_path, read_index(tmp_path))
    assert len(list(missing)) == 9
    assert missing.skips.reasons == {"missing": 3}
    last = tmp_path / "shards" / "000003.tar"
    last.write_bytes(last.read_bytes()[:4000])  # cut off in its first clip
    with pytest.raises(DataError, match="None of 2 clips"):
        ClipSet(tmp_path, read_index(tmp_path)[-2:]).readable()


def test_a_damaged_file_stays_a_file_and_is_skipped(tmp_path: Path) -> None:
    records = _write(tmp_path, 3)
    path = tmp_path / records[1].file
    path.write_bytes(path.read_bytes()[:300])
    assert pack_clips(tmp_path) == 1
    assert [bool(record.shard) for record in read_index(tmp_path)] == [True, False, True]
    assert path.stat().st_size == 300
    assert _numbers(tmp_path) == [0, 2]


@pytest.mark.parametrize("moment", ["_write_shard", "write_index", "_remove_leftovers"])
def test_killed_at_any_moment_every_clip_is_where_the_index_says(tmp_path: Path, moment: str) -> None:
    _write(tmp_path, 6)
    killer = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from lipsmith.data import shards\n"
        f"kept = shards.{moment}\n"
        "calls = []\n"
        "def killed(*args):\n"
        "    calls.append(0)\n"
        f"    if len(calls) == 2 and '{moment}' != '_write_shard':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done = kept(*args)\n"
        "    if len(calls) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return done\n"
        f"shards.{moment} = killed\n"
        f"shards.pack_clips(Path({str(tmp_path)!r}), shard_bytes=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", killer], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert _numbers(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert any(not record.shard for record in read_index(tmp_path))
    pack_clips(tmp_path)
    assert _numbers(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert all(record.shard for record in read_index(tmp_path))
    assert not (tmp_path / "clips").exists()


def test_no_room_for_a_shard_loses_nothing(tmp_path: Path) -> None:
    _write(tmp_path, 6)
    limited = (
        "import resource\n"
        "from pathlib import Path\n"
        "from lipsmith.data import shards\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"shards.pack_clips(Path({str(tmp_path)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert "OutputError: There is no room left for" in done.stderr
    assert "000000.tar" in done.stderr
    assert _numbers(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert list((tmp_path / "shards").iterdir()) == []
    assert pack_clips(tmp_path) == 1
    assert _numbers(tmp_path) == [0, 1, 2, 3, 4, 5]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        super().do_GET()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        pass  # a client that hangs up is one of the tests


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A prepared folder, and the address that it is served at."""
    folder = tmp_path / "served"
    _write(folder, 6)
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    server = _Server(("127.0.0.1", 0), lambda *args: _Quiet(*args, directory=str(folder)))
    server.asked = []  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", server
    server.shutdown()


def test_an_address_is_read_like_a_folder_and_each_shard_fetched_once(served) -> None:
    folder, address, server = served
    size = loose_bytes(folder, read_index(folder)) / 6
    pack_clips(folder, shard_bytes=int(2.5 * size))
    selection = DataSelection(validation=("speaker 0",))
    clips = load_split(Path(address), selection, "train")  # a Path loses a slash of the address
    assert [round(float(clip.mel[0, 0]) * 100) for clip in clips] == [1, 2, 4, 5]
    assert _numbers(address) == [0, 1, 2, 3, 4, 5]
    assert index_digest(address) == index_digest(folder)
    assert sorted(path for path in server.asked if "shards" in path) == [
        "/shards/000000.tar",
        "/shards/000001.tar",
    ]


def test_a_copy_that_the_index_does_not_know_is_fetched_anew_once(served) -> None:
    folder, address, server = served
    pack_clips(folder)
    assert _numbers(address) == [0, 1, 2, 3, 4, 5]
    (cached,) = (folder.parent / "cache").rglob("*.tar")
    cached.write_bytes(bytes(cached.stat().st_size))
    assert _numbers(address) == [0, 1, 2, 3, 4, 5]
    assert server.asked.count("/shards/000000.tar") == 2
    shard = folder / "shards" / "000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    cached.unlink()
    with pytest.raises(DataError, match="None of 6 clips"):
        ClipSet(address, read_index(address)).readable()
    assert server.asked.count("/shards/000000.tar") == 3


def test_an_address_without_a_prepared_folder_says_so(served) -> None:
    folder, address, _ = served
    with pytest.raises(DataError, match="404"):
        read_index(f"{address}/elsewhere")
    (folder / "index.jsonl").write_text("")
    with pytest.raises(DataError, match="lists no clip"):
        read_index(address)
    with pytest.raises(DataError, match="cannot be read"):
        read_index("http://127.0.0.1:1/clips")
    with pytest.raises(DataError, match="nosuch"):
        read_index("nosuch://bucket/clips")


def test_other_addresses_are_opened_by_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "prepared"
    _write(folder, 3)
    pack_clips(folder)
    memory = fsspec.filesystem("memory")
    for path in (folder / "index.jsonl", folder / "shards" / "000000.tar"):
        memory.pipe_file(f"/bucket/{path.relative_to(folder).as_posix()}", path.read_bytes())
    assert _numbers("memory://bucket") == [0, 1, 2]


def test_a_full_cache_folder_ends_the_run_in_one_sentence(served, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address, _ = served
    pack_clips(folder)
    read_index(address)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="There is no room left"):
        storage.open_storage(address).read("shards/000000.tar")
