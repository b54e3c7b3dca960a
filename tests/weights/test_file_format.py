import pickle
import zipfile
from pathlib import Path

import pytest

from lipsmith.errors import WeightsError
from lipsmith.weights.file_format import checkpoint_format, pickled_names

IMPOSTORS = {
    "empty": (b"", "it is empty"),
    "html": (b"\n<!DOCTYPE html><html><head><title>Sign in", "HTML page"),
    "html after a comment": (b"<!-- cached --><html lang=en>", "HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 435807851\n", "git lfs pull"),
    "text": (b"Not Found\n", "it is text, beginning “Not Found”"),
    "json": (b'{"error": "quota"}', "it is text, beginning “{"),
    "text cut inside a character": (b"a" + "é".encode() * 3000, "it is text"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="Model0" version="11">', "OpenVINO model"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(range(128, 200)), "gzip archive"),
    "video": (b"\x00\x00\x00\x20ftypisom" + bytes(64), "a video"),
    "tar": (b"a.pth".ljust(257, b"\0") + b"ustar\x0000", "tar archive"),
    "noise": (bytes(range(255, 128, -1)), "of no known format"),
    "header beyond the end": ((1 << 40).to_bytes(8, "little") + b"{}", "of no known format"),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_an_impostor_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    content, complaint = IMPOSTORS[name]
    path = tmp_path / "wav2lip.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=complaint) as caught:
        checkpoint_format(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        checkpoint_format(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        checkpoint_format(tmp_path)


def zip_of(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)
    return path


def test_a_zip_of_something_else_lists_its_members(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.pth", "readme.txt", "wav2lip.pth")
    with pytest.raises(
        WeightsError, match=r"zip archive without tensors \(readme.txt, wav2lip.pth\): unpack"
    ):
        checkpoint_format(path)


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.pt", "x/data.pkl", "x/constants.pkl", "x/code/__torch__.py")
    with pytest.raises(WeightsError, match="TorchScript program"):
        checkpoint_format(path)


def test_a_zip_cut_short_is_called_a_broken_download(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.pth", "x/data.pkl")
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(WeightsError, match="cut short"):
        checkpoint_format(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # In the directory at the end: a name that is no UTF-8 though it says so, and a version that there is not.
        (b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x08"),
        (b"PK\x01\x02\x14\x03\x14\x00", b"PK\x01\x02\x14\x03\xff\x00"),
    ],
)
def test_a_zip_with_a_damaged_directory_is_told(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = zip_of(tmp_path / "x.pth", "x/data.pkl")
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    assert old in content[directory:]
    path.write_bytes(
        content[:directory] + content[directory:].replace(old, new).replace(b"x/data.pkl", b"x\xffdata.pkl")
    )
    with pytest.raises(WeightsError, match="is a damaged torch checkpoint"):
        checkpoint_format(path)


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        import os

        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_bare_pickle_is_refused_with_what_it_names_and_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps({"state_dict": MakesFolder(tmp_path / "pwned")}, protocol))
    with pytest.raises(
        WeightsError, match=r"Python pickle \(it names (posix|nt)\.mkdir\), which was not loaded"
    ):
        checkpoint_format(path)
    assert not (tmp_path / "pwned").exists()


def test_names_are_found_in_several_pickles_and_noise_behind_them_is_ignored() -> None:
    data = pickle.dumps(1) + pickle.dumps(Path("x")) + pickle.dumps(ValueError()) + b"\xff\xfe"
    names = pickled_names(data)
    assert names[-1] == "builtins.ValueError"
    assert any(name.startswith("pathlib") for name in names)
