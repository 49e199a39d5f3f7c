import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import COMMIT, LocalHub, git_blob, local_hub

from gptlab.data.sources import hub as hub_module
from gptlab.data.sources.hub import HubFile, Repository, downloaded
from gptlab.errors import DataError

LARGE, SMALL = "data/a b/large.parquet", "small.jsonl"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with a large file, a small file, and others that fill pages of the listing."""
    for name in (LARGE, SMALL, *(f"other/{number}.txt" for number in range(5))):
        path = tmp_path / "hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    with local_hub("owner/name", tmp_path / "hub", monkeypatch) as server:
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Records the waits instead of waiting."""
    noted: list[float] = []
    monkeypatch.setattr(time, "sleep", noted.append)
    return noted


def bring(name: str, folder: Path) -> Path:
    repository = Repository.find("owner/name")
    return repository.download(file_of(name), folder)


def file_of(name: str) -> HubFile:
    return next(file for file in Repository.find("owner/name").list_files() if file.path == name)


def test_all_files_are_listed_page_by_page(hub: LocalHub):
    repository = Repository.find("owner/name")
    assert (repository.commit, repository.card) == (COMMIT, {})
    files = {file.path: file for file in repository.list_files()}
    assert list(files) == sorted([LARGE, SMALL, *(f"other/{number}.txt" for number in range(5))])
    content = (hub.folder / SMALL).read_bytes()
    assert files[SMALL] == HubFile(SMALL, len(content), git_blob(content), None)
    assert files[LARGE].sha256 is not None
    assert [file.path for file in repository.list_files("data")] == [LARGE]
    assert [file.path for file in repository.list_files("data/a b")] == [LARGE]
    assert repository.list_files("nowhere") == []


@pytest.mark.parametrize("name", [LARGE, SMALL])
def test_a_file_arrives_as_it_is_and_once(name: str, hub: LocalHub, tmp_path: Path):
    file = file_of(name)
    assert downloaded(file, tmp_path / "to") == 0
    path = bring(name, tmp_path / "to")
    assert path == tmp_path / "to" / name
    assert path.read_bytes() == (hub.folder / name).read_bytes()
    assert bring(name, tmp_path / "to") == path
    assert hub.sent[name] == file.bytes == downloaded(file, tmp_path / "to")


@pytest.mark.parametrize("name", [LARGE, SMALL])
@pytest.mark.parametrize("after", [0, 1, 5000])
def test_a_dropped_connection_is_taken_up_where_it_dropped(
    after: int,
    name: str,
    hub: LocalHub,
    tmp_path: Path,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut[name] = after
    path = bring(name, tmp_path / "to")
    assert path.read_bytes() == (hub.folder / name).read_bytes()
    assert not hub.cut
    assert hub.sent[name] - path.stat().st_size == after % 1000
    assert waits


def test_a_killed_download_leaves_nothing_behind_that_counts(hub: LocalHub, tmp_path: Path):
    left = tmp_path / "to" / ".cache" / "huggingface" / "download" / "data" / "abc.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"the half of something")
    assert downloaded(file_of(LARGE), tmp_path / "to") == 21
    bring(LARGE, tmp_path / "to")
    assert not left.exists()


@pytest.mark.parametrize("kind", ["api", "resolve", "cdn"])
def test_a_busy_hub_is_waited_for_as_it_says(kind: str, hub: LocalHub, tmp_path: Path, waits: list[float]):
    file = file_of(LARGE)
    hub.busy[kind] = [(429, "7"), (429, "7"), (503, "")] if kind != "cdn" else [(429, "7"), (429, "7")]
    assert Repository.find("owner/name").download(file, tmp_path / "to").exists()
    assert not hub.busy[kind]
    assert [wait for wait in waits if wait in (7, 8)]


def test_a_hub_that_stays_busy_is_left(hub: LocalHub, waits: list[float]):
    hub.busy["api"] = [(503, "")] * 99
    with pytest.raises(
        DataError, match="hf:owner/name: the hub answers with status 503; run again later, finished"
    ):
        Repository.find("owner/name")
    assert waits == list(hub_module.WAITS_S)
    hub.busy["api"] = [(429, "100000")]
    with pytest.raises(
        DataError, match="hf:owner/name: the hub asks us to wait for 1d03h; run again then, finished"
    ):
        Repository.find("owner/name")
    assert len(waits) == len(hub_module.WAITS_S)


def test_an_outage_is_sat_out_by_a_download(
    hub: LocalHub, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
):
    repository, file = Repository.find("owner/name"), file_of(LARGE)
    with monkeypatch.context() as patch:
        template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.raises(
            DataError, match=r"hf:owner/name@c{12}:data/a b/large\.parquet: the hub cannot be"
        ):
            repository.download(file, tmp_path / "to")
        assert [wait for wait in waits if wait in hub_module.WAITS_S[2:]] == list(hub_module.WAITS_S[2:])
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    del waits[:]
    with pytest.raises(
        DataError, match=r"hf:owner/name: the hub cannot be reached at http://127\.0\.0\.1:9 \("
    ):
        Repository.find("owner/name")
    assert not waits
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    assert repository.download(file, tmp_path / "to").exists()


def test_offline_is_offline(hub: LocalHub, tmp_path: Path, waits: list[float]):
    file = file_of(LARGE)
    code = (
        "from pathlib import Path; from gptlab.data.sources.hub import *\n"
        f"Repository('owner/name', '{COMMIT}', {{}}).download({file!r}, Path('to'))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert "DataError: hf:owner/name@cccccccccccc:data/a b/large.parquet: the hub cannot be" in done.stderr
    assert not hub.sent


def test_what_there_is_not_is_one_line(hub: LocalHub, tmp_path: Path):
    with pytest.raises(
        DataError, match="hf:owner/other: the hub has no such data set, or it is private or gated"
    ):
        Repository.find("owner/other")
    with pytest.raises(DataError, match="hf:owner/name@v2: the hub has no such revision; name a branch"):
        Repository.find("owner/name", "v2")
    with pytest.raises(DataError, match="hf:a/b/c: is not the name of a data set; write hf:OWNER/NAME"):
        Repository.find("a/b/c")
    file = file_of(LARGE)
    (hub.folder / LARGE).unlink()
    with pytest.raises(
        DataError, match=r"hf:owner/name@c{12}:data/a b/large\.parquet: the hub no longer has this file"
    ):
        Repository.find("owner/name").download(file, tmp_path / "to")


def test_a_token_opens_what_is_private(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub.private = True
    with pytest.raises(
        DataError, match=r"hf:owner/name: .* private or gated; check the name, .* set HF_TOKEN"
    ):
        Repository.find("owner/name")
    hub.private, hub.gated = False, True
    with pytest.raises(
        DataError, match=r"is gated; accept its terms at http.*/datasets/owner/name, .* HF_TOKEN"
    ):
        Repository.find("owner/name")
    monkeypatch.setenv("HF_TOKEN", "good")
    # The token must not be sent to the other host that serves large files.
    assert bring(LARGE, tmp_path / "to").exists()
    hub.gated = False
    hub.busy["api"] = [(403, "")]
    with pytest.raises(
        DataError, match="hf:owner/name: the hub refuses with status 403; set HF_TOKEN to a token"
    ):
        Repository.find("owner/name")


@pytest.mark.parametrize("name", [LARGE, SMALL])
def test_what_arrives_is_held_against_the_listing(name: str, hub: LocalHub, tmp_path: Path):
    hub.corrupt = {name}
    with pytest.raises(
        DataError, match=rf"{name}: its hash differs from the one the hub lists; run again to"
    ):
        bring(name, tmp_path / "to")
    hub.corrupt, hub.short = set(), {name}
    with pytest.raises(DataError, match=rf"{name}: [\d,]+ bytes arrived, the hub lists [\d,]+; run again"):
        bring(name, tmp_path / "to")
    assert not (tmp_path / "to" / name).exists()
    hub.short = set()
    assert bring(name, tmp_path / "to").read_bytes() == (hub.folder / name).read_bytes()


def test_a_full_disk_is_not_taken_for_the_hub(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "to")

    repository, file = Repository.find("owner/name"), file_of(LARGE)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(OSError, match="No space left on device"):
        repository.download(file, tmp_path / "to")
    assert not waits
