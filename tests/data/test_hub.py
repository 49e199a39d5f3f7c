"""Sources on the hub, through its real client, from a server that is here."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import COMMIT, FakeHub, connect

from gptlab.data.manifest import MANIFEST, Manifest
from gptlab.data.prepare import prepare
from gptlab.data.sources import SOURCES, Source, find_source
from gptlab.errors import DataError

NAME = "hf:owner/web"
CONFIGS = [
    {"config_name": "default", "data_files": [{"split": "train", "path": "data/*/*"}]},
    {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/*"}]},
    {
        "config_name": "split",
        "data_files": [
            {"split": "train", "path": ["data/a/*", "lines/*"]},
            {"split": "test", "path": "sample/10BT/*"},
        ],
    },
    {"config_name": "plain", "data_files": "lines/*.gz"},
]


def texts(name: str, count: int) -> list[str]:
    return [
        f"{name} {number} says: it was a long day and nothing came of it. " * 5 for number in range(count)
    ]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A data set in FineWeb's layout: three Parquet files in three folders, and a file of lines."""
    folder = tmp_path / "hub"
    for path in ("data/a/000.parquet", "data/b/000.parquet", "sample/10BT/000.parquet"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"text": texts(path, 60), "id": range(60), "url": ["u"] * 60})
        pq.write_table(table, folder / path, row_group_size=20)
    (folder / "lines").mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts("lines", 50))
    (folder / "lines" / "0.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "README.md").write_text("a card")
    with FakeHub("owner/web", folder) as server:
        server.configs = CONFIGS
        connect(monkeypatch, server, tmp_path / "cache")
        yield server
        server.shutdown()


def paths(source: Source) -> list[str]:
    return [part.file.path for part in source.inputs]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("", ["data/a/000.parquet", "data/b/000.parquet"]),
        (":sample-10BT", ["sample/10BT/000.parquet"]),
        (":split", ["data/a/000.parquet", "lines/0.jsonl.gz"]),
        (":plain", ["lines/0.jsonl.gz"]),
        (":data/b", ["data/b/000.parquet"]),
        (":*.gz", ["lines/0.jsonl.gz"]),
        (":sample/10BT/000.parquet", ["sample/10BT/000.parquet"]),
    ],
)
def test_configurations_paths_and_patterns(hub: FakeHub, what: str, expected: list[str]):
    source = find_source(NAME + what)
    assert paths(source) == expected
    assert (source.name, source.revision) == (NAME + what, COMMIT)
    assert source.bytes > 0


def test_without_a_card_what_is_for_training_is_taken(hub: FakeHub):
    hub.configs = []
    assert len(paths(find_source(NAME))) == 4
    for name in ("train-0.txt", "validation-0.txt"):
        (hub.folder / name).write_text("some text")
    assert paths(find_source(NAME)) == ["train-0.txt"]


def test_names_are_data_sets_and_their_configurations(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def list_files(repository: str, revision: str | None):
        asked.append((repository, revision))
        raise DataError("enough")

    monkeypatch.setattr("gptlab.data.sources.list_files", list_files)
    for name in SOURCES:
        if name != "python-docs":
            with pytest.raises(DataError, match="enough"):
                find_source(name)
    assert asked[:2] == [("HuggingFaceFW/fineweb", None), ("HuggingFaceFW/fineweb-edu", None)]
    assert ("karpathy/tiny_shakespeare", "refs/convert/parquet") in asked


def test_a_name_and_another_configuration(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    from gptlab.data import sources

    monkeypatch.setitem(
        SOURCES, "web", sources.NamedSource("the web", sources._named("hf:owner/web:sample-10BT"))
    )
    assert paths(find_source("web")) == ["sample/10BT/000.parquet"]
    assert paths(find_source("web:default")) == ["data/a/000.parquet", "data/b/000.parquet"]


def run(out: Path, name: str = NAME, **options):
    return prepare(name, out, tokenizer="bytes", workers=1, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_on_the_hub_is_prepared_like_what_is_here(hub: FakeHub, tmp_path: Path):
    facts = run(tmp_path / "out")
    assert facts["train"]["documents"] + facts["val"]["documents"] == 120
    assert Manifest.load(tmp_path / "out").revision == COMMIT
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [MANIFEST, "train_000000.bin", "val_000000.bin"]
    )
    here = prepare(hub.folder / "data", tmp_path / "here", tokenizer="bytes", val_tokens=300, workers=1)
    there = run(tmp_path / "there", val_tokens=300)
    assert here["train"]["documents"] + here["val"]["documents"] == 120
    assert there["train"]["text_bytes"] + there["val"]["text_bytes"] == (
        here["train"]["text_bytes"] + here["val"]["text_bytes"]
    )


def test_a_dropped_connection_and_a_busy_hub_change_nothing(hub: FakeHub, tmp_path: Path):
    run(tmp_path / "whole")
    hub.cut = {"data/a/000.parquet": 700}
    hub.busy = 2
    run(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_hub_that_stays_busy_is_named(hub: FakeHub, tmp_path: Path):
    hub.busy = 1000
    with pytest.raises(DataError, match="hf:owner/web: the hub answers with status 429; try again later"):
        run(tmp_path / "out")


def test_what_cannot_be_had_is_one_line(hub: FakeHub, tmp_path: Path):
    for name, complaint in (
        ("hf:owner/other", "the hub has no such data set, or it is private or gated; .* set HF_TOKEN"),
        (
            f"{NAME}:nothing",
            r"none of its 5 files is nothing or nothing/\*.*its configurations are default, sample",
        ),
        ("hf:web", "must be hf:OWNER/NAME"),
    ):
        with pytest.raises(DataError, match=complaint):
            run(tmp_path / "out", name)
    hub.private = True
    with pytest.raises(DataError, match=r"private or gated; .* set HF_TOKEN"):
        run(tmp_path / "out")


def test_a_file_that_arrives_wrong_is_not_read(hub: FakeHub, tmp_path: Path):
    hub.corrupt = {"data/b/000.parquet"}
    with pytest.raises(DataError, match=r"data/b/000\.parquet arrived with another sha256 than the hub has"):
        run(tmp_path / "out")
    hub.corrupt = set()
    run(tmp_path / "out")
    run(tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_wrong_column_answers_with_those_there_are(hub: FakeHub, tmp_path: Path):
    with pytest.raises(DataError, match='has no column "txet"; the columns are text, id, url'):
        run(tmp_path / "out", text_column="txet")


def test_what_was_begun_stays_of_its_commit(hub: FakeHub, tmp_path: Path):
    hub.corrupt = {"data/b/000.parquet"}
    with pytest.raises(DataError, match="another sha256"):
        run(tmp_path / "out")
    hub.corrupt = set()
    hub.commit = "d" * 40
    run(tmp_path / "out")
    assert Manifest.load(tmp_path / "out").revision == COMMIT
    assert run(tmp_path / "out")["already_prepared"] is True
    run(tmp_path / "later")
    assert Manifest.load(tmp_path / "later").revision == "d" * 40


def test_a_kill_in_mid_download_costs_no_file_that_was_done(hub: FakeHub, tmp_path: Path):
    run(tmp_path / "whole")
    hub.sent.clear()
    out = tmp_path / "out"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(sys.modules["gptlab"].__file__ or "").parents[1]),
    }
    command = [sys.executable, "-m", "gptlab", "data", "prepare", NAME, str(out), "--tokenizer", "bytes"]
    release = SimpleNamespace(wait=lambda: time.sleep(60))
    hub.blocked = {"data/b/000.parquet": release}  # type: ignore[dict-item]
    process = subprocess.Popen([*command, "--workers", "1"], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (hub.sent["data/b/000.parquet"] and list(out.glob(".partial/*.npy"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    hub.blocked = {}
    first = hub.sent["data/a/000.parquet"]
    subprocess.run([*command, "--workers", "2"], env=environment, check=True)
    assert hub.sent["data/a/000.parquet"] == first
    assert contents(out) == contents(tmp_path / "whole")
