"""A server on this machine that hands out files as web servers do, and as the Hugging Face hub does."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Serves `files` by path and counts what is fetched; a path of the hub is OWNER/NAME/resolve/REVISION/FILE."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        if content is not None:
            self.server.fetched.append(self.path)
            self.wfile.write(content)

    def answer(self) -> bytes | None:
        content = self.server.files.get(self.path)
        if content is None:
            known = any(path.startswith(self.path.partition("/resolve/")[0]) for path in self.server.files)
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(200)
        digest = hashlib.sha256(content).hexdigest()
        for name, value in {
            "Content-Length": len(content), "ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": len(content), "X-Repo-Commit": COMMIT,
        }.items():  # fmt: skip
            self.send_header(name, str(value))
        self.end_headers()
        return content

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that stands for the hub, with huggingface_hub's and torch.hub's caches in `caches`."""
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", made.address)
        template = made.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(caches / "hub"))
        monkeypatch.setenv("TORCH_HOME", str(caches / "torch"))
        yield made
        made.shutdown()
