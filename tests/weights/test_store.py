import errno
import os
from pathlib import Path

import pytest

from lipsmith.errors import WeightsError
from lipsmith.weights import store
from lipsmith.weights.card import WeightCard
from lipsmith.weights.file_format import checkpoint_format

CONTENT = b"tensors"


def install(base: Path, name: str, description: str = "") -> Path:
    folder = base / name
    folder.mkdir(parents=True)
    (folder / "generator.xml").write_bytes(CONTENT)
    WeightCard(
        name=name,
        kind="generator",
        architecture="wav2lip",
        width=1.0,
        face_size=96,
        description=description,
        files={"generator.xml": store.file_sha256(folder / "generator.xml")},
    ).write(folder / "card.toml")
    return folder


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "PACKAGED_FOLDER", tmp_path / "packaged")
    return tmp_path / "packaged"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPSMITH_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "own"


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert store.file_sha256(tmp_path / "file") == known


def test_packaged_weights_come_first_and_cannot_be_shadowed(packaged: Path, own: Path) -> None:
    install(own, "alpha")
    install(own, "default", "an impostor")
    install(packaged, "default", "the real one")
    cards = store.list_weights()
    assert [(card.name, card.description) for card in cards] == [("default", "the real one"), ("alpha", "")]
    assert store.weights_folder(store.load_card("default")) == packaged / "default"


def test_nothing_installed_is_an_empty_list(packaged: Path, own: Path) -> None:
    assert store.list_weights() == []


def test_the_packaged_weights_are_complete() -> None:
    for card in store.list_weights():
        store.verify(card, store.weights_folder(card))
        assert card.licence != "unknown"
        assert card.trained_on


def test_weights_are_resolved_by_name_and_by_folder(own: Path, tmp_path: Path) -> None:
    folder = install(own, "alpha")
    elsewhere = install(tmp_path / "elsewhere", "beta")
    assert store.resolve("alpha")[1] == folder
    card, found = store.resolve(elsewhere)
    assert (card.name, found) == ("beta", elsewhere)


def test_a_damaged_file_is_refused(own: Path) -> None:
    folder = install(own, "alpha")
    (folder / "generator.xml").write_bytes(CONTENT + b"!")
    with pytest.raises(WeightsError, match=r"generator\.xml is not the file that its card names"):
        store.resolve("alpha")
    (folder / "generator.xml").unlink()
    with pytest.raises(WeightsError, match="lack the file"):
        store.resolve("alpha")


def test_a_file_that_would_run_unverified_is_refused(own: Path) -> None:
    folder = install(own, "alpha")
    (folder / "README.txt").write_text("about it")
    (folder / ".generator.bin.swp").touch()
    store.resolve("alpha")
    (folder / "generator.bin").write_bytes(b"of somebody else")
    with pytest.raises(WeightsError, match=r"generator\.bin is not among the files of its card"):
        store.resolve("alpha")


def test_an_unknown_name_gets_the_known_ones_and_the_closest(packaged: Path, own: Path) -> None:
    install(own, "alpha")
    with pytest.raises(WeightsError, match=r"no file called 'alpa'. Did you mean 'alpha'\? Installed: alpha"):
        store.resolve("alpa")
    with pytest.raises(WeightsError, match=r"'some/where\.pth'"):
        store.resolve("some/where.pth")


def test_a_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a folder without a card\.toml"):
        store.resolve(tmp_path)


def test_a_card_under_another_folder_name_is_refused(own: Path) -> None:
    install(own, "alpha").rename(own / "beta")
    with pytest.raises(WeightsError, match="its folder's another"):
        store.load_card("beta")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "é", "x" * 101, "a.", "nul", "Com1.v2"])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="cannot name weights"):
        store.check_name(name)


def test_a_new_folder_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "new"
    with store.new_folder(target) as partial:
        (partial / "file").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["new"]
    assert (target / "file").read_text() == "x"


def test_an_error_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half-way"), store.new_folder(tmp_path / "new") as partial:
        (partial / "file").write_text("x")
        raise RuntimeError("half-way")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(WeightsError, match="exists already"), store.new_folder(tmp_path / "new"):
        pytest.fail("the body must not run")


def test_one_damaged_card_hides_no_other(packaged: Path, own: Path) -> None:
    install(own, "alpha")
    (install(own, "broken") / "card.toml").write_text("name = ")
    with pytest.raises(WeightsError, match=r"broken.card\.toml is not TOML"):
        store.list_weights()
    problems: list[WeightsError] = []
    assert [card.name for card in store.list_weights(on_error=problems.append)] == ["alpha"]
    assert len(problems) == 1
    with pytest.raises(WeightsError, match=r"'alpa'\. Did you mean 'alpha'\? Installed: alpha\."):
        store.resolve("alpa")


def test_what_cannot_be_read_is_no_error_of_the_program(tmp_path: Path) -> None:
    for path in (tmp_path / ("long" * 100), tmp_path / ("long" * 100) / "card.toml"):
        with pytest.raises(WeightsError, match="cannot be read: File name too long"):
            store.resolve(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match="not a regular file"):
        store.resolve(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match="not a regular file"):
        checkpoint_format(tmp_path / "pipe.pth")


def test_a_folder_that_another_process_made_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_rename = Path.rename

    def rename_too_late(self: Path, target: Path) -> Path:
        target.mkdir()
        (target / "theirs").touch()
        return real_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_too_late)
    with pytest.raises(WeightsError, match="exists already"), store.new_folder(tmp_path / "new") as partial:
        (partial / "ours").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["new", "new/theirs"]


def test_a_disk_that_takes_no_more_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(WeightsError, match="new cannot be written: No space left on device"),
        store.new_folder(tmp_path / "new"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_installed_names_go_before_what_is_in_the_working_directory(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(own, "alpha")
    here = install(tmp_path / "here", "alpha", "another")
    (here / "best.safetensors").write_bytes(CONTENT)
    monkeypatch.chdir(here.parent)
    installed = own / "alpha" / "generator.safetensors"
    for named in ("alpha", Path("alpha")):
        assert store.network_file(named, "generator") == installed
        assert store.resolve(named)[1] == own / "alpha"
    for named in ("./alpha", Path("alpha").absolute()):
        assert store.network_file(named, "generator") == Path(named) / "generator.safetensors"
        assert store.resolve(named)[0].description == "another"
    (here / "card.toml").unlink()  # now it is a run folder
    assert store.network_file("alpha", "generator") == installed
    assert store.network_file("./alpha", "generator") == Path("alpha") / "best.safetensors"
