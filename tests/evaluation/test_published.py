"""Published files are fetched on request, from a server on this machine, and used only if they are the known ones."""

import hashlib
import http.server
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lipsmith.errors import UsageError, WeightsError
from lipsmith.evaluation import published
from lipsmith.evaluation.judges import resolve_judge
from lipsmith.evaluation.published import PublishedFile, fetch
from lipsmith.models.syncnet import SyncNet
from lipsmith.weights.store import load_card


class Server:
    """Serves bytes by path on the loopback interface, and counts requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                content = outer.files.get(self.path)
                self.send_response(200 if content is not None else 404)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def offer(self, name: str, content: bytes) -> PublishedFile:
        self.files[f"/{name}"] = content
        return PublishedFile(name, f"{self.address}/{name}", hashlib.sha256(content).hexdigest(), "research")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    opened = Server()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPSMITH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))


def test_a_file_is_fetched_once(server: Server) -> None:
    file = server.offer("weights.bin", b"numbers")
    assert fetch(file).read_bytes() == b"numbers"
    assert fetch(file).read_bytes() == b"numbers"
    assert server.requests == ["/weights.bin"]


def test_another_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    file = server.offer("weights.bin", b"numbers")
    server.files["/weights.bin"] = b"<html>moved</html>"
    with pytest.raises(WeightsError, match=r"gave another file than .* as it is known"):
        fetch(file, tmp_path / "kept")
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


def test_an_address_that_is_gone_is_told(server: Server) -> None:
    file = replace(server.offer("weights.bin", b""), address=f"{server.address}/elsewhere")
    with pytest.raises(WeightsError, match=r"weights\.bin cannot be fetched from http://127.*404"):
        fetch(file)
    server.close()
    with pytest.raises(WeightsError, match=r"cannot be fetched"):
        fetch(replace(file, address="http://127.0.0.1:9/weights.bin"))


def test_syncnet_is_installed_on_request_and_then_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = SyncNet().eval()
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    file = server.offer("syncnet_v2.model", content.getvalue())
    monkeypatch.setattr(published, "SYNCNET_V2", file)
    with pytest.raises(UsageError, match="not installed"):
        resolve_judge()
    assert server.requests == []  # nothing without being asked

    judge = resolve_judge(download=True, device="cpu")

    card = load_card("syncnet-v2")
    assert card.source == f"{file.address}, sha256 {file.sha256}"
    assert (card.kind, card.use, card.licence) == ("syncnet", "research", "research")
    assert judge.digest == card.files["syncnet.safetensors"]
    mfcc = torch.randn((1, 1, 13, 20))
    with torch.inference_mode():
        found, expected = judge.network.embed_sound(mfcc), network.embed_sound(mfcc)  # type: ignore[attr-defined]
    assert torch.allclose(found, expected, atol=1e-4)

    assert resolve_judge(device="cpu").digest == judge.digest
    assert resolve_judge(download=True, device="cpu").digest == judge.digest
    assert server.requests == ["/syncnet_v2.model"]

    # As by a process that began at the same time.
    assert published.install_syncnet() == tmp_path / "weights" / "syncnet-v2"
    with (tmp_path / "weights" / "syncnet-v2" / "syncnet.safetensors").open("ab") as damaged:
        damaged.write(b"x")
    for download in (False, True):
        with pytest.raises(WeightsError, match="damaged or changed"):
            resolve_judge(download=download, device="cpu")


def test_the_addresses_are_the_authors_and_pinned() -> None:
    assert published.SYNCNET_V2.address.startswith("https://www.robots.ox.ac.uk/~vgg/")
    assert published.INCEPTION.address.startswith("https://nvlabs-fi-cdn.nvidia.com/")
    for file in (published.SYNCNET_V2, published.INCEPTION):
        assert len(file.sha256) == 64 and int(file.sha256, 16)
