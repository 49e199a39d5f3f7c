"""A local server that speaks the Hugging Face hub's endpoints for one repository, as far as its client reads.

Large files are redirected to another host, as the hub does: it is the same server, called by another name.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

COMMIT = "c" * 40
PAGE = 3  # files that a page of a listing holds
LARGE = (".bin", ".parquet", ".gz", ".zst", ".safetensors", ".png")


class LocalHub(ThreadingHTTPServer):
    """Serve the files of a folder as those of a repository.

    Args:
        repository: OWNER/NAME.
        folder: what it holds.
    """

    daemon_threads = True
    kind = "datasets"
    """Of the repository, as the hub's addresses have it."""

    def __init__(
        self, repository: str, folder: Path, handler: type[BaseHTTPRequestHandler] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.repository, self.folder = repository, folder
        self.commit = COMMIT
        """What the main branch is at."""
        self.branches: dict[str, str] = {}
        """What the others are at."""
        self.past: dict[str, Path] = {}
        """What other commits hold, where that is something else."""
        self.card: dict[str, Any] = {}
        """The head of the README."""
        self.private = self.gated = False
        """Whether a token is asked for; it is "good"."""
        self.corrupt: set[str] = set()
        """Files that arrive with a wrong byte."""
        self.short: set[str] = set()
        """Files that lack their end, without the server's knowing."""
        self.sent: Counter[str] = Counter()
        """Bytes of each file that went out."""
        self.cut: dict[str, int] = {}
        """After how many bytes the connection drops, once, by file."""
        self.blocked: dict[str, threading.Event] = {}
        """What a file's download waits for in its middle."""
        self.busy: dict[str, list[tuple[int, str]]] = {}
        """Status and Retry-After of the next answers to "api", "resolve" and "cdn"."""
        self.asked: list[str] = []
        """The kind of each request that had an answer of its own."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def api(self) -> str:
        """Where the address of what is asked about the repository begins."""
        return f"/api/{self.kind}/{self.repository}"

    @property
    def data(self) -> str:
        """Where the address of a file begins."""
        return f"{'' if self.kind == 'models' else '/' + self.kind}/{self.repository}/resolve/"

    def files(self, commit: str) -> dict[str, Path]:
        folder = self.past.get(commit, self.folder)
        return {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
        }


@contextmanager
def local_hub(repository: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve a folder, and send the client library of this process there, whose own files go beside it."""
    with LocalHub(repository, folder) as server:
        send_there(server, folder, monkeypatch)
        yield server
        server.shutdown()


def send_there(server: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("ENDPOINT", server.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", f"{folder}.cache"),
        ("HF_TOKEN_PATH", f"{folder}.token"),  # not that of whoever runs the tests
        ("HF_HUB_OFFLINE", False),  # other tests see to it that nothing goes out
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_TOKEN", raising=False)


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        api, data = hub.api, hub.data
        if path.startswith("/cdn/"):
            assert "Authorization" not in self.headers, "the token is not for other hosts"
            self._kind("cdn") or self._send_file(*path.removeprefix("/cdn/").split("/", 1), body=body)
            return
        kind = "api" if path.startswith("/api/") else "resolve"
        if self._kind(kind):
            return
        if not path.startswith((api, data)):
            self.refuse(401 if "Authorization" not in self.headers else 404, "RepoNotFound")
        elif (hub.private or hub.gated) and self.headers.get("Authorization") != "Bearer good":
            self.refuse(403 if hub.gated else 401, "GatedRepo" if hub.gated else "RepoNotFound")
        elif path.startswith(api):
            self._list(path.removeprefix(api))
        else:
            self._resolve(path.removeprefix(data), body=body)

    def _kind(self, kind: str) -> bool:
        """Answer that the hub is busy, if it is to be."""
        waiting = self.server.busy.get(kind)
        if waiting:
            status, retry_after = waiting.pop(0)
            self.refuse(status, "", {"Retry-After": retry_after} if retry_after else {})
            return True
        self.server.asked.append(kind)
        return False

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send(b"", status, {**({"X-Error-Code": code} if code else {}), **(headers or {})}, body=False)

    def send(self, content: bytes, status: int, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _commit(self, revision: str | None) -> str | None:
        hub = self.server
        known = {"main": hub.commit, None: hub.commit, **hub.branches}
        is_commit = revision is not None and re.fullmatch(r"([0-9a-f])\1{39}", revision)
        return revision if is_commit else known.get(revision)

    def _list(self, path: str) -> None:
        hub = self.server
        found = re.fullmatch(r"/tree/([^/]+)(?:/(.*))?|(?:/revision/(.+))?", path)
        raw = re.fullmatch(r".*?/(?:tree|revision)/([^/?]+).*", self.path)
        commit = self._commit(unquote(raw[1]) if raw else None)
        if found is None or commit is None:
            self.refuse(404, "RevisionNotFound")
        elif not path.startswith("/tree/"):
            files = [{"rfilename": name} for name in hub.files(commit)]
            info = {"id": hub.repository, "sha": commit, "siblings": files, "tags": [], "cardData": hub.card}
            info["private"] = hub.private
            self.send(json.dumps(info).encode(), 200, {"Content-Type": "application/json"}, body=True)
        else:
            self._tree(commit, found[2] or "")

    def _tree(self, commit: str, folder: str) -> None:
        hub, entries = self.server, list[dict[str, Any]]()
        inside = {
            name: path.read_bytes()
            for name, path in hub.files(commit).items()
            if not folder or name.startswith(f"{folder}/")
        }
        for name, content in inside.items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
            entry["oid"] = git_blob(content)
            if name.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry |= {"oid": "e" * 40, "lfs": {"oid": sha256, "size": len(content), "pointerSize": 134}}
            entries.append(entry)
            if "/" in name:
                entries.append({"type": "directory", "path": name.rsplit("/", 1)[0], "oid": "f" * 40})
        if folder and not entries:
            self.refuse(404, "EntryNotFound")
            return
        begin = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        headers = {"Content-Type": "application/json"}
        if begin + PAGE < len(entries):
            path = urlsplit(self.path).path
            headers["Link"] = f'<{hub.url}{path}?recursive=true&cursor={begin + PAGE}>; rel="next"'
        self.send(json.dumps(entries[begin : begin + PAGE]).encode(), 200, headers, body=True)

    def _resolve(self, place: str, *, body: bool) -> None:
        hub = self.server
        raw = re.search(r"/resolve/([^/]+)/", self.path)
        revision = unquote(raw[1]) if raw else ""
        name = place.removeprefix(f"{revision}/")
        commit = self._commit(revision)
        path = hub.files(commit).get(name) if commit else None
        if commit is None or path is None:
            self.refuse(404, "EntryNotFound" if commit else "RevisionNotFound")
        elif not name.endswith(LARGE):
            self._send_file(commit, name, body=body)
        else:
            headers = {
                "X-Repo-Commit": commit,
                "X-Linked-ETag": f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"',
                "X-Linked-Size": str(path.stat().st_size - 5 * (name in hub.short)),
                "Location": f"http://localhost:{hub.server_address[1]}/cdn/{commit}/{quote(name)}",
            }
            self.send(b"", 302, headers, body=False)

    def _send_file(self, commit: str, name: str, *, body: bool) -> None:
        hub = self.server
        content = hub.files(commit)[name].read_bytes()
        etag = git_blob(content)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if name in hub.corrupt:
            content = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
        if name in hub.short:
            content = content[:-5]
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag}"')
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
        hub.sent[name] += max(stop - start, 0)  # before the client can know
        self.wfile.write(content[start:stop])
        if blocked:
            self.wfile.flush()
            blocked.wait()
        if stop < len(content):
            self.close_connection = True
