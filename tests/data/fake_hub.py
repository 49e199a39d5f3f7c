"""A local server that speaks the Hugging Face hub's endpoints for one data set, as far as its client asks."""

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "c" * 40


class FakeHub(ThreadingHTTPServer):
    """Serve the files of a folder as the large files of a data set.

    Args:
        repository: OWNER/NAME.
        folder: what it holds.
    """

    daemon_threads = True

    def __init__(self, repository: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository, self.folder = repository, folder
        self.commit = COMMIT
        self.private = False
        self.configs: list[dict[str, object]] = []
        """What the data set's card says of its configurations."""
        self.busy = 0
        """How many requests are sent away with status 429 first."""
        self.corrupt: set[str] = set()
        """Files whose last token arrives wrong."""
        self.sent: Counter[str] = Counter()
        """Bytes of each file that went out."""
        self.cut: dict[str, int] = {}
        """After how many bytes the connection drops, once, by file."""
        self.blocked: dict[str, threading.Event] = {}
        """What a file's download waits for in its middle."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sha256(self, path: str) -> str:
        return hashlib.sha256((self.folder / path).read_bytes()).hexdigest()


def connect(monkeypatch: pytest.MonkeyPatch, hub: FakeHub, cache: Path) -> None:
    """Send the client of this process, and of those that it starts, to a hub that is here."""
    for name, value in (
        ("ENDPOINT", hub.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(cache)),
        ("HF_HUB_OFFLINE", False),  # other tests see to it that nothing goes out
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        if hub.busy > 0:
            hub.busy -= 1
            self.send_response(429)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        allowed = not hub.private or self.headers.get("Authorization") == "Bearer good"
        found = re.fullmatch(rf"/datasets/{hub.repository}/resolve/([^/]+)/(.+)", path)
        listed = re.fullmatch(rf"/api/datasets/{hub.repository}(/revision/([^/]+))?", path)
        if listed and allowed:
            self._send(json.dumps(self._info(listed[2] or hub.commit)).encode(), body=body)
        elif found and allowed and (hub.folder / found[2]).is_file():
            self._send_file(found[2], found[1], body=body)
        else:
            self.send_response(404 if allowed else 401)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _info(self, commit: str) -> dict[str, object]:
        hub = self.server
        files = sorted(path for path in hub.folder.rglob("*") if path.is_file())
        names = [path.relative_to(hub.folder).as_posix() for path in files]
        siblings = [
            {
                "rfilename": name,
                "size": path.stat().st_size,
                "lfs": {"sha256": hub.sha256(name), "size": path.stat().st_size, "pointerSize": 134},
            }
            for name, path in zip(names, files, strict=True)
        ]
        return {
            "id": hub.repository,
            "sha": commit,
            "siblings": siblings,
            "tags": [],
            "cardData": {"configs": hub.configs},
        }

    def _send(self, content: bytes, *, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _send_file(self, name: str, commit: str, *, body: bool) -> None:
        hub, content = self.server, (self.server.folder / name).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if name in hub.corrupt:
            content = content[:-2] + bytes([content[-2] ^ 1, 0])
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hub.sha256(name)}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        stop = hub.cut.pop(name, len(content))
        blocked = hub.blocked.get(name)
        if blocked:
            stop = len(content) // 2
        self.wfile.write(content[start:stop])
        hub.sent[name] += max(stop - start, 0)
        if blocked:
            self.wfile.flush()
            blocked.wait()
        if stop < len(content):
            self.close_connection = True
