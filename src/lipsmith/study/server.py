"""Serving a study: check the folder, bind, say where, end cleanly."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn

from lipsmith.errors import UsageError
from lipsmith.study.folder import read_links, read_study, require_clips
from lipsmith.study.pages import make_app
from lipsmith.study.storage import AnswerStore, default_url

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8321
_LAST_ANSWERS_SECONDS = 3


@dataclass(frozen=True, slots=True)
class ServedStudy:
    """Where a study is served: its address, the database, how many raters there are places for."""

    address: str
    database: str
    num_raters: int


def serve_study(
    folder: Path,
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    database: str | None = None,
    is_open: bool = False,
    on_start: Callable[[ServedStudy], None] = lambda served: None,
) -> int:
    """Serve until interrupted (^C, SIGTERM, a closed terminal); returns the number of pages that hold answers.

    Args:
        folder: the study.
        host: address of this machine to listen on; the default is reached from this machine only.
        port: 0 takes a free one.
        database: SQLAlchemy URL; None: SQLite in the folder.
        is_open: whether anybody may take a free place at the address itself.
        on_start: called once connections are accepted.

    Raises:
        DataError: no study there, damaged clips, or the database cannot be used.
        UsageError: the address is taken or is none of this machine's.
    """
    study = read_study(folder)
    require_clips(folder, study)
    tokens = read_links(folder, study)
    with contextlib.closing(AnswerStore(database or default_url(folder), study.digest)) as store:
        app = make_app(study, folder, tokens, store, is_open=is_open)
        with _listen(host, port) as listener:
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # it would list raters' network addresses
                timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
                server_header=False,
            )
            on_start(ServedStudy(_address(listener), store.place, len(study.raters)))
            server = uvicorn.Server(config)
            # uvicorn finishes the requests under way, and then raises the signal again.
            with contextlib.suppress(KeyboardInterrupt), _closed_terminal_ends(server):
                server.run(sockets=[listener])
        return len(store.read())


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _closed_terminal_ends(server: uvicorn.Server) -> Iterator[None]:
    """Inside, a closed terminal ends `server` as ^C does, which uvicorn does not; then the process as before."""
    number = getattr(signal, "SIGHUP", None)  # which Windows does not tell
    is_main = threading.current_thread() is threading.main_thread()
    if number is None or not is_main or signal.getsignal(number) is signal.SIG_IGN:  # as nohup has it
        yield
        return
    is_closed = False

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_closed
        is_closed = server.should_exit = True

    previous = signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, previous)
    if is_closed:
        signal.raise_signal(number)


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()
    except (OSError, UnicodeError) as error:  # of a name that can be nobody's
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"Nothing can listen at {host} port {port}: {reason}. Choose others with --host and --port."
        ) from error
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
