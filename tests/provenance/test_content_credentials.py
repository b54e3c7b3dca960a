import gc
import hashlib
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import c2pa
import cv2
import numpy as np
import pytest

from lipsmith.errors import InputError, OutputError, ProvenanceError
from lipsmith.provenance import can_embed, content_credentials, sidecar_path, sign
from lipsmith.provenance.inspect import CredentialsState, inspect

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def read_store(path: Path, format: str = "video/mp4") -> dict:
    with path.open("rb") as file, c2pa.Reader(format, file) as reader:
        return json.loads(reader.json())


def active_manifest(path: Path) -> dict:
    store = read_store(path)
    return store["manifests"][store["active_manifest"]]


def test_manifest_tells_what_was_done(make_video, speech, record, identity):
    video, source = make_video("output.mp4", tagged=True), make_video("source.mp4")

    signature = sign(video, record, parent=source, speech=speech, identity=identity)

    assert signature.is_embedded and signature.notes == ()
    store = read_store(video)
    assert store["validation_state"] == "Valid"
    assert [status["code"] for status in store["validation_status"]] == ["signingCredential.untrusted"]
    manifest = store["manifests"][store["active_manifest"]]
    assert manifest["title"] == "output.mp4"
    generator = manifest["claim_generator_info"][0]
    assert (generator["name"], generator["version"]) == ("Lipsmith", "0.1.0")
    assertions = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    opened, edited = assertions["c2pa.actions.v2"]["actions"]
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert edited["softwareAgent"] == {"name": "Lipsmith", "version": "0.1.0"}
    assert assertions["lipsmith.sync"] == record.to_dict()
    parent, heard = manifest["ingredients"]
    assert (parent["title"], parent["relationship"]) == ("source.mp4", "parentOf")
    assert (heard["title"], heard["relationship"]) == ("speech.wav", "inputTo")
    assert parent["metadata"]["lipsmith.sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert opened["parameters"]["ingredients"][0]["url"].endswith(parent["label"])
    assert edited["parameters"]["ingredients"][0]["url"].endswith(heard["label"])


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov"])
def test_picture_and_tags_are_as_before(make_video, record, suffix):
    video = make_video(f"output{suffix}", tagged=True)
    before = decoded(video)

    sign(video, record, parent=make_video("source.mp4"))

    assert decoded(video) == before
    inspection = inspect(video)
    assert inspection.credentials.state is CredentialsState.VALID
    assert inspection.container.model == "default"


def decoded(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [hashlib.md5(frame.to_ndarray().tobytes()).hexdigest() for frame in container.decode(video=0)]


def test_nothing_is_left_beside_the_output(make_video, record, tmp_path):
    video, source = make_video("output.mp4"), make_video("source.mp4")
    sign(video, record, parent=source)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["output.mp4", "source.mp4"]


def test_temporary_name_is_signed_for_the_final_one(make_video, record):
    partial = make_video(".talk.partial-1a2b.mp4")
    sign(partial, record, parent=make_video("source.mp4"), output=partial.with_name("talk.mp4"))
    assert active_manifest(partial)["title"] == "talk.mp4"


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_mode_of_the_file_is_kept(make_video, record):
    video = make_video("output.mp4")
    video.chmod(0o640)
    sign(video, record, parent=make_video("source.mp4"))
    assert video.stat().st_mode & 0o777 == 0o640


def test_a_file_system_without_modes_will_do(make_video, record, monkeypatch):
    def refuse(*_arguments, **_settings):
        raise PermissionError(1, "Operation not permitted")

    video, source = make_video("output.mp4"), make_video("source.mp4")
    monkeypatch.setattr(os, "chmod", refuse)
    sign(video, record, parent=source)
    assert inspect(video).credentials.state is CredentialsState.VALID


def test_names_may_be_of_any_script(make_video, record):
    video = make_video('Größe 声 🎬 "quoted".mp4')
    sign(video, record, parent=make_video("источник.mp4"))
    manifest = active_manifest(video)
    assert manifest["title"] == 'Größe 声 🎬 "quoted".mp4'
    assert manifest["ingredients"][0]["title"] == "источник.mp4"


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text exist on Linux")
def test_name_that_is_no_text_is_replaced(make_video, record):
    source = make_video("source.mp4")
    odd = source.rename(source.with_name(b"caf\xe9.mp4".decode("utf-8", "surrogateescape")))
    video = make_video("output.mp4")
    sign(video, record, parent=odd)
    assert active_manifest(video)["ingredients"][0]["title"] == "caf�.mp4"


def test_manifest_of_the_source_is_kept_inside(make_video, record):
    source, video = make_video("source.mp4"), make_video("output.mp4")
    sign(source, record, parent=make_video("first.mp4"))
    label = read_store(source)["active_manifest"]

    sign(video, record, parent=source)

    store = read_store(video)
    assert store["validation_state"] == "Valid"
    assert label in store["manifests"] and len(store["manifests"]) == 2
    assert store["manifests"][store["active_manifest"]]["ingredients"][0]["active_manifest"] == label
    credentials = inspect(video).credentials
    assert credentials.num_manifests == 2
    assert credentials.ingredients[0].has_credentials


def test_tampered_source_does_not_spoil_the_output(make_video, record, flip_media_bit):
    source, video = make_video("source.mp4"), make_video("output.mp4")
    sign(source, record, parent=make_video("first.mp4"))
    flip_media_bit(source, 40)
    assert inspect(source).credentials.state is CredentialsState.TAMPERED

    sign(video, record, parent=source)

    assert inspect(video).credentials.state is CredentialsState.VALID


@pytest.mark.parametrize("name", ["source.mkv", "source.avi"])
def test_source_of_any_container_is_an_ingredient(make_video, record, name):
    video, source = make_video("output.mp4"), make_video(name)
    signature = sign(video, record, parent=source)
    ingredient = inspect(video).credentials.ingredients[0]
    assert ingredient.title == name
    assert ingredient.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert not ingredient.has_credentials
    assert signature.notes == ()


@pytest.mark.parametrize(
    ("name", "format"), [("face.jpg", "image/jpeg"), ("face.png", "image/png"), ("face.bmp", "image/bmp")]
)
def test_picture_is_an_ingredient(make_video, record, tmp_path, name, format):
    picture = tmp_path / name
    cv2.imwrite(str(picture), np.zeros((48, 64, 3), np.uint8))
    video = make_video("output.mp4")
    sign(video, record, parent=picture)
    ingredient = inspect(video).credentials.ingredients[0]
    assert (ingredient.title, ingredient.format) == (name, format)


def test_source_that_c2pa_cannot_parse_is_named_all_the_same(make_video, record, tmp_path):
    broken = tmp_path / "face.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x0dIHDR" + b"\xff" * 9)
    video = make_video("output.mp4")

    signature = sign(video, record, parent=broken)

    credentials = inspect(video).credentials
    assert credentials.state is CredentialsState.VALID
    assert credentials.ingredients[0].title == "face.png"
    assert credentials.ingredients[0].sha256 == hashlib.sha256(broken.read_bytes()).hexdigest()
    assert len(signature.notes) == 1 and "face.png" in signature.notes[0]


def test_real_clips_of_every_container_are_ingredients(make_video, record, shared_clips):
    for suffix in ("mp4", "mkv", "flv", "mpg"):
        clip = next(shared_clips.rglob(f"*.{suffix}"))
        video = make_video("output.mp4")
        signature = sign(video, record, parent=clip, speech=clip)
        credentials = inspect(video).credentials
        assert credentials.state is CredentialsState.VALID, suffix
        assert [found.title for found in credentials.ingredients] == [clip.name, clip.name]
        assert signature.notes == ()


def test_what_a_kill_leaves_is_no_pair_that_does_not_match(make_video, record, tmp_path):
    source, final = make_video("source.mp4"), make_video("talk.mkv")
    sign(final, record, parent=source)
    assert inspect(final).credentials.state is CredentialsState.VALID
    partial = make_video(".talk.partial-1.mkv", tagged=True)

    signature = sign(partial, record, parent=source, output=final)
    assert inspect(final).credentials is None  # the old video, and nothing that would speak of another one
    partial.replace(final)
    assert inspect(final).credentials is None
    assert inspect(final).container is not None  # which says that it is synthetic
    signature.place()
    assert inspect(final).credentials.state is CredentialsState.VALID
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["source.mp4", "talk.c2pa", "talk.mkv"]


def test_a_sidecar_whose_video_never_comes_vanishes(make_video, record, tmp_path):
    source, partial = make_video("source.mp4"), make_video(".talk.partial-1.mkv")
    signature = sign(partial, record, parent=source, output=tmp_path / "talk.mkv")
    assert len(list(tmp_path.glob(".*.c2pa"))) == 1
    del signature
    gc.collect()
    assert not list(tmp_path.glob("*.c2pa")) and not list(tmp_path.glob(".*.c2pa"))


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_container_that_cannot_carry_a_manifest_gets_a_sidecar(make_video, record, suffix, tmp_path):
    partial = make_video(f".output.partial-1{suffix}", tagged=True)
    final = tmp_path / f"output{suffix}"
    before = partial.read_bytes()

    signature = sign(partial, record, parent=make_video("source.mp4"), output=final)

    assert not can_embed(final)
    assert signature.sidecar == sidecar_path(final) == tmp_path / "output.c2pa"
    assert partial.read_bytes() == before
    partial.rename(final)
    signature.place()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        *sorted(["output.c2pa", final.name]),
        "source.mp4",
    ]
    inspection = inspect(final)
    assert inspection.credentials.state is CredentialsState.VALID
    assert inspection.credentials.sidecar == signature.sidecar
    assert inspection.credentials.record == record

    with final.open("r+b") as file:
        file.seek(len(before) // 2)
        old = file.read(1)
        file.seek(len(before) // 2)
        file.write(bytes([old[0] ^ 1]))
    assert inspect(final).credentials.state is CredentialsState.TAMPERED


def test_file_with_two_media_data_boxes_is_signed_too(make_video, record):
    video = make_video("output.mp4")
    with video.open("ab") as file:
        file.write((16).to_bytes(4, "big") + b"mdat" + b"12345678")
    sign(video, record, parent=make_video("source.mp4"))
    assert inspect(video).credentials.state is CredentialsState.VALID


def test_missing_source_is_an_input_error_and_the_file_is_untouched(make_video, record, tmp_path):
    video = make_video("output.mp4")
    before = video.read_bytes()
    with pytest.raises(InputError, match=r"nowhere\.mp4 cannot be read"):
        sign(video, record, parent=tmp_path / "nowhere.mp4")
    assert video.read_bytes() == before


def test_file_that_is_no_video_is_a_provenance_error(make_video, record, tmp_path):
    video = tmp_path / "output.mp4"
    video.write_text("not a video")
    with pytest.raises(ProvenanceError, match=r"output\.mp4 could not be signed"):
        sign(video, record, parent=make_video("source.mp4"))
    assert video.read_text() == "not a video"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["output.mp4", "source.mp4"]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(OSError(28, "No space left on device"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
@pytest.mark.parametrize("method", ["readinto", "write"])
def test_failure_while_writing_leaves_the_file_as_it_was(
    make_video, record, tmp_path, monkeypatch, raised, expected, method
):
    video, source = make_video("output.mp4"), make_video("source.mp4")
    before = video.read_bytes()

    def fail(self, argument):
        return self._guard(lambda: (_ for _ in ()).throw(raised))

    monkeypatch.setattr(content_credentials._Watched, method, fail)
    with pytest.raises(expected, match="No space left" if expected is OutputError else None):
        sign(video, record, parent=source)
    assert video.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["output.mp4", "source.mp4"]


_PEAK = """
import json, sys
from pathlib import Path
from lipsmith.provenance import SyncRecord, sign
from lipsmith.provenance.inspect import inspect
video, source = Path(sys.argv[1]), Path(sys.argv[2])
sign(video, SyncRecord("m", "00", "v", "a", 1, 0), parent=source)
state = inspect(video).credentials.state
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([state, int(peak.split()[1])]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_length(make_video, tmp_path):
    peaks = []
    source = make_video("source.mp4")
    for num_packets in (2, 200):
        video = tmp_path / f"{num_packets}.mp4"
        write_packets(video, num_packets, packet_bytes=1 << 20)
        answer = subprocess.run(
            [sys.executable, "-c", _PEAK, str(video), str(source)], check=True, capture_output=True, text=True
        )
        state, peak_kb = json.loads(answer.stdout)
        assert state == "valid"
        peaks.append(peak_kb)
    assert peaks[1] - peaks[0] < 40 * 1024  # 200 MB more of file


def write_packets(path: Path, num_packets: int, packet_bytes: int) -> None:
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((72, 64), np.uint8), format="yuvj420p")
        picture = bytes((stream.encode(frame) + stream.encode(None))[0])
        for index in range(num_packets):
            packet = av.Packet(picture + bytes(packet_bytes))
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = index
            container.mux(packet)


@pytest.mark.skipif(os.name != "posix", reason="TMPDIR is of POSIX")
def test_temporary_folder_that_is_missing_is_named(make_video, record, tmp_path, monkeypatch):
    video = tmp_path / "long.mp4"
    write_packets(video, 10, packet_bytes=1 << 20)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(content_credentials, "_temporary_files_in", lambda _folder: nullcontext())
    with pytest.raises(OutputError, match=r"long\.mp4 could not be signed: .* TMPDIR names another folder"):
        sign(video, record, parent=make_video("source.mp4"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["long.mp4", "source.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="TMPDIR is of POSIX")
def test_a_temporary_folder_without_room_loses_no_video(make_video, record, tmp_path, monkeypatch):
    video = tmp_path / "long.mp4"
    write_packets(video, 10, packet_bytes=1 << 20)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    sign(video, record, parent=make_video("source.mp4"))
    assert read_store(video)["validation_state"] == "Valid"
    assert os.environ["TMPDIR"] == str(tmp_path / "nowhere")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["long.mp4", "source.mp4"]


def test_manifest_in_a_sidecar_of_the_source_is_kept_inside(make_video, record):
    source, video = make_video("source.mkv"), make_video("output.mp4")
    sidecar = sign(source, record, parent=make_video("first.mp4")).sidecar

    signature = sign(video, record, parent=source, speech=source)

    assert signature.notes == ()
    store = read_store(video)
    assert store["validation_state"] == "Valid"
    assert len(store["manifests"]) == 2
    credentials = inspect(video).credentials
    assert [found.has_credentials for found in credentials.ingredients] == [True, True]
    assert sidecar.is_file()


def test_sidecar_that_does_not_belong_to_the_source_is_left_out_with_a_note(make_video, record):
    source, video = make_video("source.mkv"), make_video("output.mp4")
    sign(source, record, parent=make_video("first.mp4"))
    make_video("source.mkv", tagged=True)

    signature = sign(video, record, parent=source)

    assert len(signature.notes) == 1 and "source.c2pa does not belong to source.mkv" in signature.notes[0]
    assert inspect(video).credentials.state is CredentialsState.VALID
    assert not inspect(video).credentials.ingredients[0].has_credentials


def test_sidecar_of_an_output_says_nothing_of_its_source_of_the_same_name(make_video, record):
    source, output, video = make_video("talk.mp4"), make_video("talk.mkv"), make_video("video.mp4")
    sign(output, record, parent=source)

    untouched = inspect(source)
    assert untouched.credentials is None and not untouched.is_marked and not untouched.is_unverified
    assert inspect(output).credentials.state is CredentialsState.VALID
    assert sign(video, record, parent=source).notes == ()

    # Under its own ending a file that does not fit was changed, whatever it is called.
    make_video("talk.mkv", tagged=True)
    assert inspect(output).credentials.state is CredentialsState.TAMPERED


def test_sidecar_of_the_source_is_not_replaced(make_video, record):
    source, video = make_video("talk.mkv"), make_video("talk.avi")
    sidecar = sign(source, record, parent=make_video("first.mp4")).sidecar
    before = sidecar.read_bytes()
    with pytest.raises(OutputError, match=r"would replace those of .*talk\.mkv"):
        sign(video, record, parent=source)
    assert sidecar.read_bytes() == before
