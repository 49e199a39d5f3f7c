"""A local server that speaks the Hugging Face hub's endpoints for making a model repository and writing to it.

Large files go to it by git LFS, or by Xet, of which it takes what arrives without looking into it. It is for one
repository, me/tiny, of one user, whose token is "good".
"""

import base64
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from local_hub import LARGE, Handler, LocalHub, git_blob, send_there

LICENCES = ("mit", "apache-2.0", None)


class ModelHub(LocalHub):
    """Keep what is sent below a folder.

    Args:
        folder: what the repository holds.
    """

    kind = "models"

    def __init__(self, folder: Path) -> None:
        super().__init__("me/tiny", folder, Writer)
        folder.mkdir()
        self.made = False
        """Whether the repository exists."""
        self.objects: dict[str, bytes] = {}
        """Large files that have arrived, by sha256."""
        self.arrived: Counter[str] = Counter()
        """Bytes that came in of large files, by sha256, or of Xet's blocks; of a connection that dropped, too."""
        self.large: dict[str, str] = {}
        """The sha256 of each large file of the repository."""
        self.drops = 0
        """How many more uploads of a large file are to break off in their middle."""
        self.refusing: dict[str, int] = {}
        """Paths that are answered with an error, and its status."""
        self.commits: list[dict[str, Any]] = []
        """What was asked of each commit: its message, and what it did to which files."""

    def holds(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in self.files(self.commit).items()}


@contextmanager
def model_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """Run a hub, and send the client library of this process there, logged in."""
    with ModelHub(folder) as server:
        send_there(server, folder, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", "good")
        # The hub's newer storage is spoken to by a library of its own, whose server this is none of.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield server
        server.shutdown()


class Writer(Handler):
    server: ModelHub

    def _answer(self, *, body: bool) -> None:
        if not self.server.made and not self.path.startswith("/cdn/"):
            self.refuse(404, "RepoNotFound")
        else:
            super()._answer(body=body)

    def do_GET(self) -> None:
        if self.path == f"{self.server.api}/xet-write-token/main":
            self.answer({"accessToken": "xet", "exp": int(time.time()) + 3600, "casUrl": self.server.url})
        elif self.path.startswith("/v1/chunks/"):
            self.refuse(404, "")  # nobody else has such a piece
        else:
            super().do_GET()

    def do_POST(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self._kind("api")
        if path in hub.refusing:
            self.refuse(hub.refusing[path], "")
        elif self.headers.get("Authorization") == "Bearer xet":
            self.take(path, content)
        elif self.headers.get("Authorization") != "Bearer good":
            # As talkative as a server could be.
            self.answer({"error": f"Invalid credentials: {self.headers.get('Authorization')}"}, 401)
        elif path == "/api/repos/create":
            self.make(json.loads(content))
        elif path == "/api/validate-yaml":
            self.check_head(json.loads(content)["content"])
        elif path == f"{hub.api}/preupload/main":
            self.answer({"files": [self.mode(file) for file in json.loads(content)["files"]]})
        elif path == f"/{hub.repository}.git/info/lfs/objects/batch":
            self.answer({"objects": [self.action(each) for each in json.loads(content)["objects"]]})
        elif path == "/verify":
            asked = json.loads(content)
            arrived = hub.objects.get(asked["oid"])
            self.answer({}, 200 if arrived is not None and len(arrived) == asked["size"] else 404)
        elif path == f"{hub.api}/commit/main":
            self.commit([json.loads(line) for line in content.splitlines()])
        else:
            self.refuse(404, "")

    def take(self, path: str, content: bytes) -> None:
        """Take a block of Xet's, or a list of what is in which block."""
        if path.startswith("/v1/xorbs/"):
            self.server.arrived[path] += len(content)
            self.answer({"was_inserted": True})
        elif path == "/v1/shards":
            self.answer({"result": 1})
        else:
            self.refuse(404, "")  # newer ways, without which the client does

    def do_PUT(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        size = int(self.headers["Content-Length"])
        if path == f"{hub.api}/settings":
            hub.private = json.loads(self.rfile.read(size)).get("visibility", "private") != "public"
            self.answer({})
            return
        oid = path.removeprefix("/objects/")
        if hub.drops:
            hub.drops -= 1
            hub.arrived[oid] += len(self.rfile.read(size // 2))
            self.close_connection = True
            return
        content = self.rfile.read(size)
        hub.arrived[oid] += len(content)
        assert hashlib.sha256(content).hexdigest() == oid
        hub.objects[oid] = content
        self.answer({})

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        self.send(json.dumps(content).encode(), status, {"Content-Type": "application/json"}, body=True)

    def make(self, asked: dict[str, Any]) -> None:
        hub = self.server
        if f"{asked['organization']}/{asked['name']}" != hub.repository:
            self.answer({"error": "You don't have the rights to create a model there"}, 403)
        elif hub.made:
            url = f"{hub.url}/{hub.repository}"
            self.answer({"error": "You already created this model repo", "url": url}, 409)
        else:
            hub.made, hub.private = True, asked.get("visibility") == "private" or asked.get("private", False)
            self.answer({"url": f"{hub.url}/{hub.repository}"})

    def check_head(self, card: str) -> None:
        lines = card.split("---")[1].splitlines()
        licence = next(
            (line.removeprefix("license: ") for line in lines if line.startswith("license: ")), None
        )
        if licence in LICENCES:
            self.answer({"errors": [], "warnings": []})
        else:
            self.answer({"errors": [{"message": '"license" must be one of [mit, ...]'}]}, 400)

    def mode(self, file: dict[str, Any]) -> dict[str, Any]:
        hub = self.server
        there = hub.files(hub.commit).get(file["path"])
        large = file["path"].endswith(LARGE)
        oid = hub.large.get(file["path"]) if large else there and git_blob(there.read_bytes())
        return {
            "path": file["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            "oid": oid,
        }

    def action(self, asked: dict[str, Any]) -> dict[str, Any]:
        hub, oid = self.server, asked["oid"]
        if oid in hub.objects:
            return {**asked}
        upload, verify = f"{hub.url}/objects/{oid}", f"{hub.url}/verify"
        return {**asked, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}

    def commit(self, lines: list[dict[str, Any]]) -> None:
        hub = self.server
        did: dict[str, Any] = {"message": lines[0]["value"]["summary"]}
        for line in lines[1:]:
            value = line["value"]
            path = hub.folder / value["path"]
            did.setdefault(line["key"], []).append(value["path"])
            if line["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                hub.large[value["path"]] = value["oid"]
                path.write_bytes(hub.objects.get(value["oid"], b""))
            else:
                assert line["key"] == "deletedFile"
                path.unlink()
        hub.commits.append(did)
        hub.commit = f"{len(hub.commits)}" * 40
        self.answer({"commitUrl": f"{hub.url}/{hub.repository}/commit/{hub.commit}", "commitOid": hub.commit})
