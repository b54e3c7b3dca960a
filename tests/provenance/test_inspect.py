import json
from pathlib import Path

import av
import pytest

from lipsmith.errors import InputError, ProvenanceError
from lipsmith.provenance import load_or_create_identity, sign
from lipsmith.provenance.inspect import Action, CredentialsState, SignerTrust, inspect


@pytest.fixture
def signed(make_video, speech, record) -> Path:
    video = make_video("output.mp4", tagged=True)
    sign(video, record, parent=make_video("source.mp4"), speech=speech)
    return video


def test_both_marks_are_read_back(signed, record):
    inspection = inspect(signed)

    assert inspection.is_marked and inspection.says_synthetic and inspection.model == "default"
    found = inspection.credentials
    assert found.state is CredentialsState.VALID and found.problems == () and found.sidecar is None
    assert found.claim_generator == "Lipsmith 0.1.0"
    assert found.signer.trust is SignerTrust.THIS_COMPUTER
    assert found.record == record
    when = record.to_dict()["created"]
    assert found.actions == (
        Action("c2pa.opened", None, None, None, when),
        Action(
            "c2pa.edited",
            "compositeWithTrainedAlgorithmicMedia",
            "Lipsmith 0.1.0",
            "Lip movements were generated to match other speech, by the model default.",
            when,
        ),
    )
    assert [(one.title, one.relationship) for one in found.ingredients] == [
        ("source.mp4", "parentOf"),
        ("speech.wav", "inputTo"),
    ]
    assert (inspection.container.model, inspection.container.model_sha256) == ("default", "ab" * 32)


@pytest.mark.parametrize("index", [0, 8, 100, -100, -1])
def test_one_changed_bit_of_the_media_data_is_detected(signed, index, flip_media_bit):
    flip_media_bit(signed, index)

    inspection = inspect(signed)

    assert inspection.credentials.state is CredentialsState.TAMPERED
    assert any("assertion.bmffHash.mismatch" in problem for problem in inspection.credentials.problems)
    assert "TAMPERED" in inspection.to_text()
    assert inspection.credentials.signer.trust is not SignerTrust.TRUSTED


def test_changed_tag_is_detected(signed):
    data = signed.read_bytes()
    assert data.count(b"model default (") == 1
    signed.write_bytes(data.replace(b"model default (", b"model another ("))
    inspection = inspect(signed)
    assert inspection.credentials.state is CredentialsState.TAMPERED
    assert inspection.model == "default"
    assert inspection.container.model == "another"


def test_changed_manifest_is_detected(signed):
    data = signed.read_bytes()
    assert data.count(b"by the model default.") == 1
    signed.write_bytes(data.replace(b"by the model default.", b"by the model defaulT."))
    assert inspect(signed).credentials.state is CredentialsState.TAMPERED


def test_manifest_that_is_cut_up_does_not_pass_for_none(signed):
    data = signed.read_bytes()
    start = data.index(b"jumb")
    signed.write_bytes(data[: start + 40] + bytes(400) + data[start + 440 :])
    credentials = inspect(signed).credentials
    assert credentials is not None
    assert credentials.state in (
        CredentialsState.UNREADABLE,
        CredentialsState.TAMPERED,
        CredentialsState.INVALID,
    )
    assert credentials.problems


def test_signature_of_another_computer_is_valid_but_not_trusted(signed, tmp_path):
    load_or_create_identity(tmp_path / "another")
    for folder in (tmp_path / "another", tmp_path / "none"):
        credentials = inspect(signed, identity_folder=folder).credentials
        assert credentials.state is CredentialsState.VALID
        assert credentials.signer.trust is SignerTrust.UNTRUSTED
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_file_without_marks_says_so(make_video, suffix):
    inspection = inspect(make_video(f"plain{suffix}"))
    assert (inspection.credentials, inspection.container) == (None, None)
    assert not inspection.is_marked and not inspection.says_synthetic and inspection.model is None
    text = inspection.to_text()
    assert "no Content Credentials and no container tag" in text
    assert "Nothing is known" in text
    assert inspection.to_dict()["is_marked"] is False


def test_tag_alone_is_reported_as_such(make_video):
    inspection = inspect(make_video("stripped.mp4", tagged=True))
    assert inspection.credentials is None and inspection.says_synthetic and inspection.model == "default"
    assert "Content Credentials: none. They may have been removed" in inspection.to_text()


def test_a_name_is_only_a_name(make_video, monkeypatch):
    video = make_video("a:b.mp4", tagged=True)
    monkeypatch.chdir(video.parent)
    assert inspect("a:b.mp4").model == "default"


def test_tags_of_another_encoding_do_not_hide_the_mark(make_video):
    video = make_video("latin.mp4", tagged=True)
    data = video.read_bytes()
    assert data.count(b"The person shown") == 1
    video.write_bytes(data.replace(b"The person shown", b"The p\xe9rson shown"))
    assert inspect(video).model == "default"


def test_manifest_alone_is_reported_as_such(make_video, record):
    video = make_video("output.mp4")
    sign(video, record, parent=make_video("source.mp4"))
    inspection = inspect(video)
    assert inspection.container is None and inspection.says_synthetic and inspection.model == "default"
    assert "Container tag: none." in inspection.to_text()


def test_text_and_json_tell_the_same(signed, record):
    inspection = inspect(signed)
    answer = json.loads(json.dumps(inspection.to_dict()))
    assert answer["credentials"]["state"] == "valid"
    assert answer["credentials"]["signer"]["trust"] == "this computer"
    assert answer["credentials"]["record"] == record.to_dict()
    assert answer["credentials"]["is_embedded"] is True
    assert answer["container"] == {
        "lipsmith_version": "0.1.0",
        "model": "default",
        "model_sha256": "ab" * 32,
    }
    lines = inspection.to_text().splitlines()
    assert lines[0] == f"{signed}: says that it is synthetic."
    assert "Content Credentials: valid, unchanged since signing" in lines
    assert "  made from: source.mp4 (without Content Credentials)" in lines
    assert "  with the sound of: speech.wav (without Content Credentials)" in lines
    assert "  frames: 240 changed, 10 unchanged" in lines


def test_control_codes_in_a_file_do_not_reach_the_terminal(make_video, record, tmp_path):
    video = make_video("a\x1b[2Jb.mp4")
    sign(video, record, parent=make_video("source.mp4"))
    assert "\x1b" not in inspect(video).to_text()


def test_other_makers_of_manifests_are_read(make_video, identity):
    import c2pa

    video = make_video("other.mp4")
    manifest = {
        "claim_version": 2,
        "claim_generator_info": [{"name": "Other", "version": "2"}],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture",
                        }
                    ]
                },
            },
            {"label": "lipsmith.sync", "data": {"created": "never"}, "kind": "Json"},
        ],
    }
    info = c2pa.C2paSignerInfo(identity.algorithm.encode(), identity.chain_pem, identity.key_pem, None)
    target = video.with_name("signed.mp4")
    with c2pa.Builder.from_json(manifest) as builder, c2pa.Signer.from_info(info) as signer:
        builder.sign_file(video, target, signer)
    inspection = inspect(target)
    assert inspection.credentials.claim_generator == "Other 2"
    assert inspection.credentials.actions[0].digital_source_type == "digitalCapture"
    assert inspection.credentials.record is None
    assert inspection.is_marked and not inspection.says_synthetic
    assert "none of which says that it is synthetic" in inspection.to_text()


def test_stale_sidecar_is_reported_as_tampered(make_video, record):
    video = make_video("output.mkv")
    sign(video, record, parent=make_video("source.mp4"))
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    assert inspect(video).credentials.state is CredentialsState.TAMPERED


def test_what_cannot_be_inspected_is_an_input_error(make_video, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello")
    make_video("other.mp4", tagged=True)
    (tmp_path / "playlist.txt").write_text("ffconcat version 1.0\nfile other.mp4\n")
    for name, message in [
        ("nowhere.mp4", "There is no file"),
        ("", "is a folder"),
        ("empty.mp4", "is empty"),
        ("text.mp4", "is not a video, sound or image"),
        ("playlist.txt", "is not a video, sound or image"),
    ]:
        with pytest.raises(InputError, match=message):
            inspect(tmp_path / name)


def test_anchors_that_cannot_be_read_are_an_error(signed, tmp_path):
    with pytest.raises(ProvenanceError, match=r"nowhere\.pem cannot be read"):
        inspect(signed, trust_anchors=tmp_path / "nowhere.pem")


def test_sidecar_of_garbage_is_unreadable_not_absent(make_video):
    video = make_video("output.mkv")
    video.with_suffix(".c2pa").write_bytes(b"garbage")
    credentials = inspect(video).credentials
    assert credentials.state is CredentialsState.UNREADABLE
    assert credentials.sidecar == video.with_suffix(".c2pa")
    assert credentials.problems
