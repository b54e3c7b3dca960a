"""Checkpoints in and out: every kind, every wrapping, and everything that must not be read."""

import os
import resource
import runpy
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lipsmith.conditioning import DEFAULT_PADDING, lower_half
from lipsmith.errors import OutputError, RuntimeUnavailableError, WeightsError
from lipsmith.models.expert import LipSyncExpert
from lipsmith.models.generators import build_generator
from lipsmith.models.quality import VisualQualityDiscriminator
from lipsmith.models.syncnet import SyncNet
from lipsmith.models.wav2lip import FACE_SIZES, GENERATORS, RelightingWav2Lip, WarpingWav2Lip, Wav2Lip
from lipsmith.runtime import RUNTIMES, resolve_runtime
from lipsmith.runtime.torch import load_generator
from lipsmith.training.run import save_weights
from lipsmith.weights import checkpoint, resolve, store
from lipsmith.weights.card import WeightCard
from lipsmith.weights.checkpoint import identify, import_checkpoint, load_network, read_checkpoint

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPSMITH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def generator() -> Wav2Lip:
    torch.manual_seed(0)
    return Wav2Lip(width=0.125).eval()


def save_zip(value: Any, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


SAVERS = {"torch (zip)": save_zip, "torch (legacy)": save_legacy}


def as_published(network: nn.Module) -> dict[str, Any]:
    """The wrapping of a published checkpoint: prefixed names, optimiser state, counts."""
    optimizer = torch.optim.Adam(network.parameters())
    prefixed = OrderedDict((f"module.{name}", tensor) for name, tensor in network.state_dict().items())
    return {
        "state_dict": prefixed,
        "optimizer": optimizer.state_dict(),
        "global_step": 196000,
        "global_epoch": 7,
    }


def assert_same(found: State, expected: State) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("file_format", SAVERS)
def test_a_wrapped_and_prefixed_checkpoint_is_read_and_recognised(
    tmp_path: Path, generator: Wav2Lip, file_format: str
) -> None:
    path = tmp_path / "wav2lip_gan.pth"
    SAVERS[file_format](as_published(generator), path)
    assert_same(read_checkpoint(path), generator.state_dict())
    found = identify(path)
    assert (found.kind, found.architecture, found.width, found.face_size) == (
        "generator",
        "wav2lip",
        0.125,
        96,
    )
    assert (found.wrapped, found.prefixed, found.file_format) == (True, True, file_format)
    assert found.details == {"global_step": 196000, "global_epoch": 7}


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_file])
def test_bare_tensors_are_read(tmp_path: Path, generator: Wav2Lip, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "bare"
    save(generator.state_dict(), path)
    assert_same(dict(sorted(read_checkpoint(path).items())), dict(sorted(generator.state_dict().items())))
    found = identify(path)
    assert (found.kind, found.wrapped, found.prefixed) == ("generator", False, False)


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module], float, int]] = {
    "generator at width 1": ("generator", Wav2Lip, 1.0, 96),
    "generator at 0.3": ("generator", lambda: Wav2Lip(0.3), 0.3, 96),
    **{
        f"generator of {size}": ("generator", lambda s=size: Wav2Lip(0.25, s), 0.25, size)
        for size in FACE_SIZES
    },
    "warping generator": ("generator", lambda: WarpingWav2Lip(0.25), 0.25, 96),
    "relighting generator": ("generator", lambda: RelightingWav2Lip(0.25), 0.25, 96),
    "expert": ("expert", LipSyncExpert, 1.0, 96),
    "narrow expert": ("expert", lambda: LipSyncExpert(0.5), 0.5, 96),
    "critic": ("quality_discriminator", VisualQualityDiscriminator, 1.0, 96),
    "critic of 192": ("quality_discriminator", lambda: VisualQualityDiscriminator(0.25, 192), 0.25, 192),
    "syncnet": ("syncnet", SyncNet, 1.0, 224),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_width_and_face_size_is_recognised(tmp_path: Path, name: str) -> None:
    kind, build, width, face_size = NETWORKS[name]
    with torch.device("meta"):
        shapes = build().state_dict()
    # One zero seen through every shape: files of a few kilobytes.
    path = tmp_path / "x.pth"
    zero = torch.zeros(1)
    torch.save({key: zero[0].expand(tensor.shape) for key, tensor in shapes.items()}, path)
    found = identify(path)
    assert (found.kind, found.face_size) == (kind, face_size)
    # A width is recognised up to what rounds to the same channels.
    with torch.device("meta"):
        recognised = {
            "generator": lambda: GENERATORS[found.architecture](found.width, found.face_size),
            "expert": lambda: LipSyncExpert(found.width),
            "quality_discriminator": lambda: VisualQualityDiscriminator(found.width, found.face_size),
            "syncnet": SyncNet,
        }[kind]().state_dict()
    assert {k: v.shape for k, v in recognised.items()} == {k: v.shape for k, v in shapes.items()}
    assert found.width == pytest.approx(width, abs=0.01)


@pytest.mark.parametrize("name", ["wav2lip", "expert", "quality_discriminator", "syncnet_v2"])
@pytest.mark.parametrize("file_format", SAVERS)
def test_the_published_layouts_load(tmp_path: Path, parity: Path, name: str, file_format: str) -> None:
    arrays = runpy.run_path(str(parity / "seeded.py"))["state_dict"](name)
    state = {f"module.{key}": torch.from_numpy(array) for key, array in arrays.items()}
    SAVERS[file_format]({"state_dict": state, "global_step": 1}, tmp_path / "x.pth")
    network, found = load_network(tmp_path / "x.pth")
    assert found.width == 1.0
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == {
        key: array.shape for key, array in arrays.items()
    }
    first = next(iter(arrays))
    assert torch.equal(network.state_dict()[first], torch.from_numpy(arrays[first]))


def test_half_precision_is_loaded_as_single(tmp_path: Path, generator: Wav2Lip) -> None:
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in generator.state_dict().items()
    }
    save_file(half, tmp_path / "x.safetensors")
    network, _ = load_network(tmp_path / "x.safetensors")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not network.training


def test_another_kind_than_asked_for_is_refused(tmp_path: Path, generator: Wav2Lip) -> None:
    save_zip(generator.state_dict(), tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=r"holds the network wav2lip \(generator\); what is needed is: expert"
    ):
        load_network(tmp_path / "x.pth", "expert")


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, generator: Wav2Lip) -> None:
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    state["output_block.1.bias"][1] = float("nan")
    save_zip(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"output_block\.1\.bias holds values that are not finite"):
        load_network(tmp_path / "x.pth")


def test_an_unknown_network_lists_its_first_tensors(tmp_path: Path) -> None:
    save_file({f"encoder.{i}.weight": torch.zeros(2) for i in range(9)}, tmp_path / "x.safetensors")
    with pytest.raises(
        WeightsError, match=r"unknown network: encoder\.0\.weight, encoder\.1\.weight.*9 in all"
    ):
        identify(tmp_path / "x.safetensors")


def test_a_close_relative_gets_the_first_difference(tmp_path: Path, generator: Wav2Lip) -> None:
    state = dict(generator.state_dict())
    del state["output_block.1.bias"]
    save_zip(state, tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=r"tensors that differ: 1; the first: output_block\.1\.bias is missing"
    ):
        identify(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "its keys are epoch"),
        ({}, "its keys are nothing"),
        ({"state_dict": {"a": 1}}, "its keys are a"),
        (torch.zeros(3), "holds a Tensor"),
    ],
)
def test_what_is_not_tensors_by_name_is_refused(tmp_path: Path, value: Any, complaint: str) -> None:
    save_zip(value, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=complaint):
        read_checkpoint(tmp_path / "x.pth")


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("file_format", SAVERS)
def test_a_checkpoint_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, generator: Wav2Lip, file_format: str
) -> None:
    path = tmp_path / "x.pth"
    value = {"state_dict": generator.state_dict(), "args": MakesFolder(tmp_path / "pwned")}
    SAVERS[file_format](value, path)
    with pytest.raises(
        WeightsError, match=r"would run code when loaded: its pickle names (posix|nt)\.mkdir\."
    ):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(WeightsError, match="would run code"):
        resolve(path)
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.99])
@pytest.mark.parametrize("save", [save_zip, save_legacy, save_file])
def test_a_file_cut_short_is_refused(
    tmp_path: Path, generator: Wav2Lip, save: Callable[[Any, Path], None], share: float
) -> None:
    path = tmp_path / "x"
    save(generator.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"cut short|damaged|no known format"):
        read_checkpoint(path)


@pytest.fixture
def fake_export(monkeypatch: pytest.MonkeyPatch) -> list[tuple[nn.Module, str]]:
    """In place of the export to OpenVINO, which takes seconds and has its own tests."""
    calls: list[tuple[nn.Module, str]] = []

    def export_generator(model: nn.Module, folder: Path, *, precision: str, **_: Any) -> Path:
        calls.append((model, precision))
        (folder / "generator.xml").write_text("<net/>")
        (folder / "generator.bin").write_bytes(b"weights")
        return folder / "generator.xml"

    monkeypatch.setattr(checkpoint, "export_generator", export_generator)
    return calls


def test_an_imported_generator_is_installed_with_card_and_hashes(
    tmp_path: Path, generator: Wav2Lip, fake_export: list
) -> None:
    path = tmp_path / "wav2lip_gan.pth"
    save_legacy(as_published(generator), path)
    card = import_checkpoint(path, "published", overrides={"description": "The GAN one."})
    folder = tmp_path / "weights" / "published"
    assert {p.name for p in folder.iterdir()} == {"card.toml", *card.files}
    assert set(card.files) == {"generator.safetensors", "generator.xml", "generator.bin"}
    assert_same(
        dict(sorted(load_file(folder / "generator.safetensors").items())),
        dict(sorted(generator.state_dict().items())),
    )
    assert store.load_card("published") == card == WeightCard.read(folder / "card.toml")
    assert card.description == "The GAN one."
    assert card.use == "research"
    assert (card.kind, card.width, card.face_size) == ("generator", 0.125, 96)
    assert card.window_lead_seconds == Fraction(0)
    assert card.crop_padding == (0.0, 0.08, 0.0, 0.0)
    assert store.file_sha256(path) in card.source
    assert resolve("published") == (card, folder)
    assert [precision for _, precision in fake_export] == ["fp32"]


@pytest.mark.parametrize(
    ("form", "reference", "paints"),
    [("wav2lip", "steady", "lower half"), ("lipgan", "frame", "lower half"), ("speech2vid", "still", "face")],
)
def test_a_trainings_run_folder_says_itself_how_it_is_used(
    tmp_path: Path, fake_export: list, form: str, reference: str, paints: str
) -> None:
    network = build_generator(form, 0.125, 96)
    said = {"kind": "generator", "lead_seconds": "1/25", "reference": reference, "recipe": "mine"}
    (tmp_path / "run").mkdir()
    save_file(network.state_dict(), tmp_path / "run" / "best.safetensors", said)
    card, folder = resolve(tmp_path / "run")
    assert (card.architecture, card.width, card.face_size) == (form, 0.125, 96)
    assert (card.reference, card.paints, card.recipe) == (reference, paints, "mine")
    assert (card.window_lead_seconds, card.crop_padding) == (Fraction(1, 25), DEFAULT_PADDING)
    assert resolve(tmp_path / "run" / "best.safetensors") == (card, folder)
    assert len(fake_export) == 1
    assert_same(
        dict(sorted(load_generator(folder).state_dict().items())), dict(sorted(network.state_dict().items()))
    )


@pytest.mark.parametrize("lead", ["soon", "1/0", "1e999999999"])
def test_a_training_that_says_what_cannot_be_is_refused(
    tmp_path: Path, generator: Wav2Lip, fake_export: list, lead: str
) -> None:
    said = {"kind": "generator", "lead_seconds": lead}
    save_file(generator.state_dict(), tmp_path / "best.safetensors", said)
    with pytest.raises(WeightsError, match="says of itself what cannot be"):
        resolve(tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_who_may_read_weights_is_the_umasks_to_say(tmp_path: Path, generator: Wav2Lip, umask: int) -> None:
    save_zip(LipSyncExpert(0.125).state_dict(), tmp_path / "x.pth")
    before = os.umask(umask)
    try:
        import_checkpoint(tmp_path / "x.pth", "mine")
        save_weights(generator, tmp_path / "best.safetensors", {})
    finally:
        os.umask(before)
    for path in (*(tmp_path / "weights" / "mine").iterdir(), tmp_path / "best.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


def test_an_expert_is_imported_without_an_export(tmp_path: Path, fake_export: list) -> None:
    save_zip(LipSyncExpert(0.125).state_dict(), tmp_path / "x.pth")
    card = import_checkpoint(tmp_path / "x.pth", "teacher")
    assert (card.kind, set(card.files)) == ("expert", {"expert.safetensors"})
    assert fake_export == []
    network, found = load_network(tmp_path / "weights" / "teacher" / "expert.safetensors", "expert")
    assert isinstance(network, LipSyncExpert)
    assert found.width == 0.125


def test_a_taken_name_is_refused_and_a_failed_import_leaves_nothing(
    tmp_path: Path, generator: Wav2Lip, fake_export: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pth"
    save_zip(generator.state_dict(), path)
    import_checkpoint(path, "mine")
    with pytest.raises(WeightsError, match="exists already"):
        import_checkpoint(path, "mine")
    with pytest.raises(WeightsError, match="cannot name weights"):
        import_checkpoint(path, "../mine")

    def fail(*_: Any, **__: Any) -> None:
        raise WeightsError("the outputs differ")

    monkeypatch.setattr(checkpoint, "export_generator", fail)
    with pytest.raises(WeightsError, match="the outputs differ"):
        import_checkpoint(path, "other")
    assert [p.name for p in (tmp_path / "weights").iterdir()] == ["mine"]


def test_a_checkpoint_named_by_its_path_is_imported_once(
    tmp_path: Path, generator: Wav2Lip, fake_export: list
) -> None:
    path = tmp_path / "x.pth"
    save_zip(generator.state_dict(), path)
    card, folder = resolve(path)
    assert folder.parent == tmp_path / "cache" / "checkpoints"
    assert card.name.startswith(store.file_sha256(path)[:32])
    path.rename(tmp_path / "y.pth")
    assert resolve(str(tmp_path / "y.pth")) == (card, folder)
    assert len(fake_export) == 1
    assert card.name not in [listed.name for listed in store.list_weights()]


def test_an_import_that_another_process_finished_first_is_used(
    tmp_path: Path, generator: Wav2Lip, fake_export: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pth"
    save_zip(generator.state_dict(), path)

    def import_twice(path: Path, name: str, folder: Path) -> WeightCard:
        import_checkpoint(path, name, folder)
        return import_checkpoint(path, name, folder)

    monkeypatch.setattr(checkpoint, "import_checkpoint", import_twice)
    card, folder = resolve(path)
    assert store.WeightCard.read(folder / "card.toml") == card
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_damaged_cache_is_made_anew(tmp_path: Path, generator: Wav2Lip, fake_export: list) -> None:
    path = tmp_path / "x.pth"
    save_zip(generator.state_dict(), path)
    card, folder = resolve(path)
    tensors = folder / "generator.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:1000])
    assert resolve(path) == (card, folder)
    assert tensors.read_bytes() == whole
    assert len(fake_export) == 2


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_kept_under_the_old_hash(
    tmp_path: Path, generator: Wav2Lip, fake_export: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a training does with its best weights while its run folder is tried."""
    path = tmp_path / "x.pth"
    save_zip(generator.state_dict(), path)
    old = path.read_bytes()

    def replace_and_import(path: Path, name: str, folder: Path) -> WeightCard:
        monkeypatch.setattr(checkpoint, "import_checkpoint", import_checkpoint)
        save_zip({name: tensor + 1 for name, tensor in generator.state_dict().items()}, path)
        return import_checkpoint(path, name, folder)

    monkeypatch.setattr(checkpoint, "import_checkpoint", replace_and_import)
    card, folder = resolve(path)
    assert card.name.startswith(store.file_sha256(path)[:32])
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    path.write_bytes(old)
    _, folder = resolve(path)
    assert_same(
        dict(sorted(load_generator(folder).state_dict().items())),
        dict(sorted(generator.state_dict().items())),
    )


def test_the_cache_keeps_what_was_used_last(
    tmp_path: Path, generator: Wav2Lip, fake_export: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MOST_CACHED", 2)
    cache = tmp_path / "cache" / "checkpoints"
    for name in ("published", f"{'a' * 32}-1", f".{'b' * 32}-2.partial-{'c' * 8}"):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (0, 0))
    paths, folders = [], []
    for number in range(3):
        paths.append(tmp_path / f"{number}.pth")
        save_zip({"state_dict": generator.state_dict(), "step": number}, paths[-1])
        folders.append(resolve(paths[-1])[1])
        os.utime(folders[-1], (number, number))  # long ago
        if number == 1:
            assert resolve(paths[0])[1] == folders[0]  # and again today
    assert {path.name for path in cache.iterdir()} == {"published", folders[0].name, folders[2].name}
    assert len(fake_export) == 3


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, generator: Wav2Lip, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_zip(generator.state_dict(), tmp_path / "x.pth")
    with limited_file_size(100_000), pytest.raises(WeightsError, match="cannot be written: File too large"):
        import_checkpoint(tmp_path / "x.pth", "mine")
    monkeypatch.setattr(checkpoint, "save", lambda tensors, metadata: b"")
    with limited_file_size(100_000), pytest.raises(OutputError, match="cannot be written"):
        import_checkpoint(tmp_path / "x.pth", "mine")
    assert list((tmp_path / "weights").iterdir()) == []


@contextmanager
def limited_file_size(num_bytes: int) -> Iterator[None]:
    """Inside, a file that grows beyond `num_bytes` meets the error of a full disk (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_scalar_under_a_network_s_name_is_unknown(tmp_path: Path) -> None:
    save_zip({"netcnnlip.0.weight": torch.tensor(1.0)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="tensors of an unknown network"):
        identify(tmp_path / "x.pth")


def test_without_torch_a_checkpoint_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.pth").write_bytes(b"whatever")
    monkeypatch.delitem(sys.modules, "lipsmith.weights.checkpoint")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'lipsmith\[torch\]'"):
        resolve(tmp_path / "x.pth")


def test_what_is_imported_runs_in_every_runtime(tmp_path: Path, generator: Wav2Lip) -> None:
    path = tmp_path / "x.pth"
    save_zip(as_published(generator), path)
    _, folder = resolve(path)
    random = np.random.default_rng(0)
    mels = random.normal(size=(3, 1, 80, 16)).astype(np.float32)
    faces = random.random((3, 6, 96, 96), dtype=np.float32)
    with torch.inference_mode():
        expected = generator(torch.from_numpy(mels), torch.from_numpy(faces)).numpy()
    for name in RUNTIMES:
        runtime = resolve_runtime(name, folder, device="cpu", threads=1)
        generated = lower_half(runtime.generate(mels, faces))
        np.testing.assert_allclose(generated, lower_half(expected), rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_published_generator_gives_the_published_output(tmp_path: Path, parity: Path) -> None:
    """A file in the published layout, wrapped and prefixed, through the cache and the default runtime."""
    seeded = runpy.run_path(str(parity / "seeded.py"))
    state = {f"module.{name}": torch.from_numpy(a) for name, a in seeded["state_dict"]("wav2lip").items()}
    save_legacy({"state_dict": state, "optimizer": {}, "global_step": 1}, tmp_path / "wav2lip_gan.pth")
    card, folder = resolve(tmp_path / "wav2lip_gan.pth")
    assert (card.width, card.face_size, card.window_lead_seconds) == (1.0, 96, Fraction(0))
    mels, faces = seeded["normal"]("mel", (2, 1, 80, 16)), seeded["uniform"]("face", (2, 6, 96, 96))
    runtime = resolve_runtime("openvino", folder, threads=1)
    expected = np.load(parity / "wav2lip.npz")["output"]
    generated = runtime.generate(mels.astype(np.float32), faces)
    np.testing.assert_allclose(lower_half(generated), lower_half(expected), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(generated[:, :, :32], faces[:, :3, :32])  # what is never pasted
