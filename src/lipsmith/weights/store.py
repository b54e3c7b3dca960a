"""Name → card → verified files.

Weights live in folders that hold a card and the files it names: the packaged ones beside this module, the
user's own in the data folder of the platform, or where the variable `LIPSMITH_WEIGHTS` points. A packaged
name cannot be shadowed.
"""

import difflib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from lipsmith.errors import RuntimeUnavailableError, WeightsError
from lipsmith.weights.card import CARD_NAME, WeightCard

PACKAGED_FOLDER = Path(__file__).parent / "data"
FOLDER_VARIABLE = "LIPSMITH_WEIGHTS"
CACHE_VARIABLE = "LIPSMITH_CACHE"
# Part of the cache's folder names: raise it when what an import writes changes.
CACHE_FORMAT = 1


def user_folder() -> Path:
    """Where the user's own weights live; it need not exist."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("lipsmith")) / "weights"


def cache_folder() -> Path:
    """Where checkpoints that were named by their path are kept in the runtimes' format; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("lipsmith"))
    return base / "checkpoints"


def check_name(name: str) -> None:
    """Raise `WeightsError` for a name that cannot be a folder's on every platform."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise WeightsError(
            f"{name!r} cannot name weights: use up to 100 letters, digits, dots, dashes and underscores."
        )


def list_weights() -> list[WeightCard]:
    """The cards of all installed weights: the packaged ones, then the user's, each by name."""
    cards: dict[str, WeightCard] = {}
    for base in (PACKAGED_FOLDER, user_folder()):
        if base.is_dir():
            for path in sorted(base.glob(f"[!.]*/{CARD_NAME}")):
                cards.setdefault(path.parent.name, _read_card(path.parent))
    return list(cards.values())


def load_card(name: str) -> WeightCard:
    """The card of the installed weights `name`; `WeightsError` where there are none."""
    return _read_card(_folder_of(name))


def weights_folder(card: WeightCard) -> Path:
    """The folder of installed weights, its files verified against the card."""
    folder = _folder_of(card.name)
    verify(card, folder)
    return folder


def verify(card: WeightCard, folder: Path) -> None:
    """Raise `WeightsError` unless `folder` holds each file of the card, unchanged."""
    for name, digest in card.files.items():
        path = folder / name
        if not path.is_file():
            raise WeightsError(
                f"The weights {card.name!r} lack the file {path}: install or import them again."
            )
        if file_sha256(path) != digest:
            raise WeightsError(
                f"{path} is not the file that its card names (its sha256 differs): damaged or changed. "
                "Install or import these weights again."
            )


def resolve(name_or_path: str | Path) -> tuple[WeightCard, Path]:
    """The card and the verified folder of the weights that the user means.

    Args:
        name_or_path: the name of installed weights, the path of a weights folder, or the path of a
            checkpoint file, which is imported once into the cache under its sha256.

    Raises:
        WeightsError: unknown, damaged, or a file that is no checkpoint of a known network.
        RuntimeUnavailableError: a checkpoint file while PyTorch is not installed.
    """
    if isinstance(name_or_path, str) and _installed_folder(name_or_path) is not None:
        card = load_card(name_or_path)
        return card, weights_folder(card)
    path = Path(name_or_path).expanduser()
    if (path / CARD_NAME).is_file():
        card = WeightCard.read(path / CARD_NAME)
        verify(card, path)
        return card, path
    if path.exists():
        return _import_into_cache(path)
    raise _unknown(str(name_or_path))


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` to write in, which gets the name `target` at the end, or vanishes on an error.

    Raises:
        WeightsError: `target` exists, at the beginning or by the end, or its parent cannot be written.
    """
    taken = WeightsError(f"{target} exists already: choose another name, or delete that folder first.")
    if target.exists():
        raise taken
    partial = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise WeightsError(f"The folder {target} cannot be written: {error.strerror}.") from error
    try:
        yield partial
        if target.exists():
            raise taken
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _installed_folder(name: str) -> Path | None:
    if Path(name).name != name:
        return None
    candidates = (base / name for base in (PACKAGED_FOLDER, user_folder()))
    return next((folder for folder in candidates if (folder / CARD_NAME).is_file()), None)


def _folder_of(name: str) -> Path:
    folder = _installed_folder(name)
    if folder is None:
        raise _unknown(name)
    return folder


def _read_card(folder: Path) -> WeightCard:
    card = WeightCard.read(folder / CARD_NAME)
    if card.name != folder.name:
        raise WeightsError(f"{folder / CARD_NAME}: the card's name is {card.name!r}, its folder's another.")
    return card


def _unknown(name: str) -> WeightsError:
    names = [card.name for card in list_weights()]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    known = f"Installed: {', '.join(names)}." if names else "No weights are installed."
    return WeightsError(
        f"There are no weights and no file called {name!r}. {hint}{known} A checkpoint file's path works too."
    )


def _import_into_cache(path: Path) -> tuple[WeightCard, Path]:
    if path.is_dir():
        raise WeightsError(
            f"{path} is a folder without a {CARD_NAME}: give a weights folder or a checkpoint file."
        )
    folder = cache_folder() / f"{file_sha256(path)[:32]}-{CACHE_FORMAT}"
    if not folder.exists():
        # Here, not above: only this needs torch.
        try:
            from lipsmith.weights.checkpoint import import_checkpoint
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "safetensors"):
                raise
            raise RuntimeUnavailableError(
                f"{path} is a checkpoint file, and reading one needs PyTorch: pip install 'lipsmith[torch]'."
            ) from error
        try:
            import_checkpoint(path, folder.name, folder.parent)
        except WeightsError:
            if not folder.exists():  # else another process has imported the same file meanwhile
                raise
    card = _read_card(folder)
    verify(card, folder)
    return card, folder
