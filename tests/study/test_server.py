import shutil
import signal
import socket
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from lipsmith.errors import DataError, UsageError
from lipsmith.study.server import is_local, serve_study
from lipsmith.study.storage import read_answers

from .conftest import Built
from .served import STOP_SECONDS, served
from .test_pages import fields_of


@pytest.fixture
def own(built: Built, tmp_path: Path) -> Path:
    shutil.copytree(built.folder, tmp_path / "study")
    return tmp_path / "study"


def post(address: str, fields: dict[str, str]) -> None:
    urllib.request.urlopen(address, urllib.parse.urlencode(fields).encode()).close()


class TestProcess:
    def test_says_where_and_ends_cleanly(self, own: Path, built: Built) -> None:
        with served(own) as (address, process):
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(f"{address}/r/{built.tokens[0]}") as page:
                assert built.study.texts.agree in page.read().decode()
            process.send_signal(signal.SIGINT)
            _, words = process.communicate(timeout=STOP_SECONDS)
        assert process.returncode == 0
        assert "Stopped. 0 answered pages are saved." in words and "Traceback" not in words

    @pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows tells no closed terminal")
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
    def test_a_closed_terminal_and_a_request_to_end_are_no_crash(
        self, own: Path, built: Built, name: str
    ) -> None:
        number = getattr(signal, name)
        with served(own) as (address, process):
            post(f"{address}/r/{built.tokens[0]}/consent", {"agree": "yes"})
            process.send_signal(number)
            _, words = process.communicate(timeout=STOP_SECONDS)
        assert process.returncode == 128 + number and "Traceback" not in words

    def test_killed_and_started_again_it_goes_on_where_it_was(self, own: Path, built: Built) -> None:
        path = f"/r/{built.tokens[0]}"
        page = built.study.raters[0][0]
        with served(own) as (address, process):
            post(f"{address}{path}/consent", {"agree": "yes"})
            post(f"{address}{path}/pages/0", fields_of(page))
            process.kill()
            process.wait(STOP_SECONDS)
        (saved,) = read_answers(own, None, built.study.digest)
        assert (saved.rater, saved.page) == (0, 0) and len(saved.answers) == 3
        with served(own) as (address, _), urllib.request.urlopen(f"{address}{path}") as shown:
            assert "Page 2 of 10" in shown.read().decode()


class TestRefused:
    def test_a_port_that_is_taken(self, own: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(UsageError, match="--port"):
            serve_study(own, port=other.getsockname()[1])

    @pytest.mark.parametrize("host", ["a..b", "nowhere.invalid"])
    def test_a_host_that_there_is_not(self, own: Path, host: str) -> None:
        with pytest.raises(UsageError, match="--host"):
            serve_study(own, host=host, port=0)

    def test_damaged_clips(self, own: Path) -> None:
        next((own / "videos").iterdir()).write_bytes(b"other")
        with pytest.raises(DataError, match="is not the file that was built"):
            serve_study(own, port=0)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("192.168.1.4", False)],
)
def test_is_local(host: str, expected: bool) -> None:
    assert is_local(host) is expected
