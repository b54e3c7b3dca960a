"""Name → card → verified files.

Weights live in folders that hold a card and the files it names: the packaged ones beside this module, the
user's own in the data folder of the platform, or where the variable `LIPSMITH_WEIGHTS` points. A packaged
name cannot be shadowed.
"""

import difflib
import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from lipsmith.errors import RuntimeUnavailableError, WeightsError
from lipsmith.machine import user_cache_folder
from lipsmith.weights.card import CARD_NAME, Kind, WeightCard

PACKAGED_FOLDER = Path(__file__).parent / "data"
FOLDER_VARIABLE = "LIPSMITH_WEIGHTS"
BEST_NAME = "best.safetensors"
"""The best weights in a training's run folder."""
# Part of the cache's folder names: raise it when what an import writes changes.
CACHE_FORMAT = 4
# Each takes about twice the checkpoint's size. What was used within a day stays: another process may be at it.
_MOST_CACHED = 16
_LEAST_IDLE_SECONDS = 24 * 3600
_CACHED_NAME = re.compile(r"[0-9a-f]{32}-\d+|\.[0-9a-f]{32}-\d+\.partial-[0-9a-f]{8}")
_TRIES = 3
_DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)),
}


def user_folder() -> Path:
    """Where the user's own weights live; it need not exist."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("lipsmith")) / "weights"


def cache_folder() -> Path:
    """Where checkpoints that were named by their path are kept in the runtimes' format; it need not exist."""
    return user_cache_folder() / "checkpoints"


def check_name(name: str) -> None:
    """Raise `WeightsError` for a name that cannot be a folder's on every platform."""
    is_device = name.partition(".")[0].upper() in _DEVICES  # of Windows, with any ending
    if is_device or name.endswith(".") or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise WeightsError(
            f"{name!r} cannot name weights on every platform: use up to 100 letters, digits, dots, dashes and "
            "underscores, and no dot at the end."
        )


def list_weights(on_error: Callable[[WeightsError], None] | None = None) -> list[WeightCard]:
    """The cards of all installed weights: the packaged ones, then the user's, each by name.

    Args:
        on_error: called for each card that cannot be read, which is then left out; None: it is raised.

    Raises:
        WeightsError: a card or a folder cannot be read.
    """
    cards: dict[str, WeightCard] = {}
    for base in (PACKAGED_FOLDER, user_folder()):
        with _told_what_cannot_be_read(base):
            paths = sorted(base.glob(f"[!.]*/{CARD_NAME}")) if base.is_dir() else []
        for path in paths:
            try:
                cards.setdefault(path.parent.name, _read_card(path.parent))
            except WeightsError as error:
                if on_error is None:
                    raise
                on_error(error)
    return list(cards.values())


def load_card(name: str) -> WeightCard:
    """The card of the installed weights `name`; `WeightsError` where there are none."""
    return _read_card(_folder_of(name))


def is_installed(named: str | Path) -> bool:
    """Whether this is the name of installed weights; whoever means something else of that name writes `./NAME`.

    A `Path` of one part is such a name, too, as it forgets `./`: make it absolute to have a path.
    """
    return _installed_folder(str(named)) is not None


def weights_folder(card: WeightCard) -> Path:
    """The folder of installed weights, its files verified against the card; `WeightsError` where they differ."""
    folder = _folder_of(card.name)
    verify(card, folder)
    return folder


def verify(card: WeightCard, folder: Path) -> None:
    """Raise `WeightsError` unless `folder` holds each file of the card, unchanged, and nothing else that would run."""
    with _told_what_cannot_be_read(folder):
        for path in sorted(folder.glob(f"{card.kind}.*")):
            if path.name not in card.files:
                raise WeightsError(
                    f"{path} is not among the files of its card, so that nothing tells whether it was changed. "
                    "Install or import these weights again."
                )
    for name, digest in card.files.items():
        path = folder / name
        with _told_what_cannot_be_read(path):
            if not path.is_file():
                raise WeightsError(
                    f"The weights {card.name!r} lack the file {path}: install or import them again."
                )
            found = file_sha256(path)
        if found != digest:
            raise WeightsError(
                f"{path} is not the file that its card names (its sha256 differs): damaged or changed. "
                "Install or import these weights again."
            )


def resolve(name_or_path: str | Path) -> tuple[WeightCard, Path]:
    """The card and the verified folder of the weights that the user means.

    Args:
        name_or_path: the name of installed weights, which goes before anything of that name in the working directory;
            the path of a weights folder; or the path of a checkpoint file or of a training's run folder (its best
            weights), which is imported once into the cache under its sha256.

    Raises:
        WeightsError: unknown, damaged, or a file that is no checkpoint of a known network.
        RuntimeUnavailableError: a checkpoint file while PyTorch is not installed.
    """
    if is_installed(name_or_path):
        card = load_card(str(name_or_path))
        return card, weights_folder(card)
    path = Path(name_or_path).expanduser()
    with _told_what_cannot_be_read(path):
        has_card, exists = (path / CARD_NAME).is_file(), path.exists()
    if has_card:
        card = WeightCard.read(path / CARD_NAME)
        verify(card, path)
        return card, path
    if exists:
        best = path / BEST_NAME
        return _import_into_cache(best if best.is_file() else path)
    raise _unknown(str(name_or_path))


def network_file(named: str | Path, kind: Kind) -> Path:
    """The tensors of the network that the user means, for what needs no runtime.

    Args:
        named: the name of installed weights, a weights folder (both verified), a training's run folder (its best
            weights), or a file; names go before paths as for `resolve`.
        kind: what the network is for.

    Raises:
        WeightsError: a name that is not installed, damaged weights, or weights of another kind.
    """
    path = Path(named).expanduser()
    is_unknown_name = not path.exists() and path.name == str(named)
    if is_installed(named) or is_unknown_name or (path / CARD_NAME).is_file():
        card, folder = resolve(named)
        if card.kind != kind:
            raise WeightsError(
                f"The weights {card.name!r} hold no {kind} but this kind of network: {card.kind}."
            )
        return folder / f"{kind}.safetensors"
    return path / BEST_NAME if path.is_dir() else path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_free(target: Path) -> None:
    """Raise `WeightsError` where there is something at `target` already."""
    if target.exists():
        raise WeightsError(f"{target} exists already: choose another name, or delete that folder first.")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` to write in, which gets the name `target` at the end, or vanishes on an error.

    Raises:
        WeightsError: `target` exists, at the beginning or by the end, or its parent cannot be written.
    """
    require_free(target)
    partial = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        yield partial
        require_free(target)
        partial.rename(target)
    except OSError as error:
        if (
            error.errno in (errno.ENOTEMPTY, errno.EEXIST) and target.exists()
        ):  # made since, by another process
            require_free(target)
        raise WeightsError(
            f"The folder {target} cannot be written: {error.strerror or error}. "
            "Choose another folder, or make room and see to its permissions."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _told_what_cannot_be_read(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror or error}. See to its path and permissions."
        ) from error


def _installed_folder(name: str) -> Path | None:
    if Path(name).name != name:
        return None
    candidates = (base / name for base in (PACKAGED_FOLDER, user_folder()))
    with _told_what_cannot_be_read(user_folder()):
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
    names = [
        card.name for card in list_weights(on_error=lambda _: None)
    ]  # this is about the one that was asked for
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    known = f"Installed: {', '.join(names)}." if names else "No weights are installed."
    return WeightsError(
        f"There are no weights and no file called {name!r}. {hint}{known} A checkpoint file's path works too."
    )


def _import_into_cache(path: Path) -> tuple[WeightCard, Path]:
    if path.is_dir():
        raise WeightsError(
            f"{path} is a folder without a {CARD_NAME}: give a weights folder, the run folder of a training, or a "
            "checkpoint file."
        )
    for _ in range(_TRIES):
        folder = _place_in_cache(path)
        if folder.exists():
            try:
                found = _verified(folder)
            except WeightsError:  # the checkpoint is at hand to make it anew
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.utime(folder)  # the least recently used go first
                return found
        _import(path, folder)
        if _place_in_cache(path) == folder:
            _throw_out_old(folder)
            return _verified(folder)
        # What was read may be what has replaced the file since, as a training does with its best weights.
        shutil.rmtree(folder, ignore_errors=True)
    raise WeightsError(f"{path} changes while it is read: try again when it is finished.")


def _place_in_cache(path: Path) -> Path:
    with _told_what_cannot_be_read(path):
        if not path.is_file():  # reading a pipe would wait for somebody to write into it
            raise WeightsError(f"{path} is not a regular file: give a weights folder or a checkpoint file.")
        return cache_folder() / f"{file_sha256(path)[:32]}-{CACHE_FORMAT}"


def _import(path: Path, folder: Path) -> None:
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


def _throw_out_old(newest: Path) -> None:
    """Remove from the cache what was not used for long, and what a killed process has left."""
    with suppress(OSError):
        now = time.time()
        kept = [path for path in newest.parent.iterdir() if _CACHED_NAME.fullmatch(path.name)]
        kept.sort(key=lambda path: (path.name[0] != ".", path.stat().st_mtime), reverse=True)
        for number, path in enumerate(kept):
            is_usable = path.name.endswith(f"-{CACHE_FORMAT}") and number < _MOST_CACHED
            if not is_usable and now - path.stat().st_mtime > _LEAST_IDLE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _verified(folder: Path) -> tuple[WeightCard, Path]:
    card = _read_card(folder)
    verify(card, folder)
    return card, folder
