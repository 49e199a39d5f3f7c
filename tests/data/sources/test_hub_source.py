import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_hub import COMMIT, LocalHub, local_hub
from small_folder import documents_of

from gptlab.commands import data_list
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import MANIFEST, Manifest
from gptlab.data.prepare import jobs
from gptlab.data.prepare.prepare import merge, prepare
from gptlab.data.sources.hub import HubFile, Repository
from gptlab.data.sources.hub_source import Remote, split_name
from gptlab.data.sources.table import SOURCES, find_source
from gptlab.data.verify import verify
from gptlab.errors import DataError

NAME = "hf:owner/name"
LATER = "d" * 40
FILES = [f"data/train-{number:05d}-of-00004.parquet" for number in range(4)]


def write(path: Path, texts: list[str], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(range(len(texts))), column: texts}), path, row_group_size=5)


def texts_of(name: str) -> list[str]:
    return [f"{name}, document {number}: {'lorem ipsum ' * (number % 7)}" for number in range(40)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with a data set of four training files and one validation file."""
    for name in FILES:
        write(tmp_path / "hub" / name, texts_of(name))
    write(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", ["held out"])
    (tmp_path / "hub" / "README.md").write_text("a data set")
    monkeypatch.setattr(jobs, "JOB_BYTES", 500)
    with local_hub("owner/name", tmp_path / "hub", monkeypatch) as server:
        yield server


def run(out: Path, name: str = NAME, **options: Any) -> dict[str, Any]:
    return prepare(name, out, **{"tokenizer": "bytes", "workers": 1, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_document_to_train_on_is_prepared_in_order(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    facts = run(tmp_path / "out")
    expected = [text for name in FILES for text in texts_of(name)]
    train, val = documents_of(tmp_path / "out", "train"), documents_of(tmp_path / "out", "val")
    assert sorted(train + val) == sorted(expected)
    assert train == [text for text in expected if text not in val]
    assert (facts["source"], facts["revision"]) == (NAME, f"{NAME}@{COMMIT}")
    assert hub.sent == {name: (hub.folder / name).stat().st_size for name in FILES}
    assert sorted(contents(tmp_path / "out")) == [MANIFEST, "train_000000.bin", "val_000000.bin"]
    size = f"{sum(hub.sent.values()) / 1000:.3g}kB"
    assert (
        f"{NAME} at cccccccccccc, all files: 4 file(s), {size}; left out: validation"
        in capsys.readouterr().err
    )
    verify(tmp_path / "out")


@pytest.mark.parametrize("options", [{"workers": 3}, {"part": "1/3"}])
def test_the_bytes_depend_on_nothing_else(options: dict[str, Any], hub: LocalHub, tmp_path: Path):
    run(tmp_path / "whole")
    run(tmp_path / "out", **options)
    if "part" in options:
        run(tmp_path / "other machine", part="2/3")
        run(tmp_path / "out", part="3/3")
        merge(tmp_path / "out", [tmp_path / "other machine"])
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_no_more_than_two_files_lie_there_at_a_time(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lying: list[int] = []
    plain = Remote.close

    def noted(self: Remote, folder: Path) -> None:
        lying.append(len(list(folder.rglob("*.parquet"))))
        plain(self, folder)

    monkeypatch.setattr(Remote, "close", noted)
    run(tmp_path / "out")
    assert len(lying) == 4
    assert max(lying) <= 2


def test_only_what_is_wanted_is_fetched(hub: LocalHub, tmp_path: Path):
    run(tmp_path / "out", max_tokens=1500)
    assert list(hub.sent) == FILES[: len(hub.sent)]
    assert len(hub.sent) <= 2


def test_room_for_two_files_is_asked_for(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[float] = []
    monkeypatch.setattr("gptlab.data.prepare.prepare.check_room", lambda _, needed: asked.append(needed))
    source = find_source(NAME)
    run(tmp_path / "out")
    largest = max((hub.folder / name).stat().st_size for name in FILES)
    # Minus a few small files that prepare has written by then.
    assert asked == [pytest.approx(2 * 2 * source.bytes + 2 * largest, abs=200)]


def test_a_preparation_keeps_to_the_commit_it_began_with(hub: LocalHub, tmp_path: Path):
    run(tmp_path / "whole")
    hub.past[COMMIT] = hub.folder
    out = tmp_path / "out"
    hub.corrupt = {FILES[2]}
    with pytest.raises(DataError, match=rf"{FILES[2]}: its hash differs from the one the hub lists"):
        run(out)
    assert not (out / MANIFEST).exists()
    hub.corrupt = set()
    hub.sent.clear()
    # The data set changes: one text is different, one file is gone.
    hub.commit, hub.folder = LATER, tmp_path / "later"
    write(hub.folder / FILES[0], ["another text", "and one more"])
    run(out)
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(hub.sent) == FILES[2:]
    assert Manifest.load(out).revision == f"{NAME}@{COMMIT}"
    assert run(tmp_path / "new")["revision"] == f"{NAME}@{LATER}"


def test_a_revision_is_a_source(hub: LocalHub, tmp_path: Path):
    run(tmp_path / "whole")
    hub.past[COMMIT] = hub.folder
    hub.commit, hub.folder = LATER, tmp_path / "later"
    write(hub.folder / FILES[0], ["another text", "and one more"])
    run(tmp_path / "again", Manifest.load(tmp_path / "whole").revision)
    assert Manifest.load(tmp_path / "again").shards == Manifest.load(tmp_path / "whole").shards


def test_what_is_finished_needs_no_network(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    run(out)
    whole = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        assert run(out)["already_prepared"] is True
        with pytest.raises(
            DataError, match="is already prepared, but text_column was None, is now text; choose"
        ):
            run(out, text_column="text")
        (out / "train_000000.bin").write_bytes(b"")
        with pytest.raises(DataError, match="the hub cannot be reached"):
            run(out)
    hub.past[COMMIT] = hub.folder
    hub.commit, hub.folder = LATER, tmp_path
    assert run(out)["already_prepared"] is False
    assert contents(out) == whole


def test_another_subset_is_not_taken_for_the_same(hub: LocalHub, tmp_path: Path):
    run(tmp_path / "out", f"{NAME}:data/train-*")
    with pytest.raises(
        DataError, match=rf"source revision was {NAME}@c*:data/train-\*, is now {NAME}@c*:data"
    ):
        run(tmp_path / "out", f"{NAME}:data")


@pytest.mark.parametrize("how", ["parquet", "jsonl", "jsonl.gz"])
def test_a_wrong_column_is_answered_with_those_there_are(how: str, hub: LocalHub, tmp_path: Path):
    import gzip

    if how != "parquet":
        line = json.dumps({"id": 1, "text": "a text"}).encode()
        (hub.folder / f"x.{how}").write_bytes(gzip.compress(line) if how == "jsonl.gz" else line)
    name = f"{NAME}:{'data/train-*' if how == 'parquet' else f'x.{how}'}"
    with pytest.raises(
        DataError, match=r'no (column|text in) "body"; the columns are id, text: choose with --t'
    ):
        run(tmp_path / "out", name, text_column="body")
    assert len(hub.sent) <= 2


def test_documents_are_read_without_a_folder(hub: LocalHub):
    assert list(find_source(f"{NAME}:{FILES[1]}").documents()) == texts_of(FILES[1])
    assert list(hub.sent) == FILES[1:2]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (f"{NAME}:nothing/*", r'no file matches "nothing/\*"; gptlab reads \.txt, .*, choose a path$'),
        (f"{NAME}:README.md", r'"README\.md" holds README\.md; gptlab reads'),
        ("hf:owner", r'source "hf:owner": must be hf:OWNER/NAME\[@REVISION\]\[:CONFIGURATION_OR_PATH\]'),
        ("hf:owner/other", "hf:owner/other: the hub has no such data set"),
        (f"{NAME}@v9", "hf:owner/name@v9: the hub has no such revision"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, complaint: str, hub: LocalHub, tmp_path: Path):
    with pytest.raises(DataError, match=complaint):
        run(tmp_path / "out", name)
    hub.card = {"configs": [{"config_name": "small", "data_files": "x"}]}
    with pytest.raises(DataError, match="or one of the configurations small"):
        run(tmp_path / "out", f"{NAME}:smal")


def test_a_repository_without_text_to_train_on_is_refused(hub: LocalHub, tmp_path: Path):
    for name in FILES:
        (hub.folder / name).unlink()
    with pytest.raises(
        DataError, match="hf:owner/name: its files are for validation; name a path to train on it"
    ):
        run(tmp_path / "out")


def test_one_kind_of_file_is_read_where_there_are_several(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (hub.folder / "train.txt").write_text("the same text again")
    assert [file.bytes > 0 for file in find_source(NAME).files] == [True] * 4
    assert "left out: validation, 1 file(s) that are not .parquet" in capsys.readouterr().err


def test_what_describes_a_repository_is_not_its_text(hub: LocalHub, tmp_path: Path):
    before = [file.file.path for file in find_source(NAME).files if isinstance(file, Remote)]
    for name in ("dataset_infos.json", "data/train-notes.ndjson", "data/train-notes.txt.gz"):
        (hub.folder / name).write_text('{"text": "about the data"}')
    assert [file.file.path for file in find_source(NAME).files if isinstance(file, Remote)] == before


def test_names_are_split():
    assert split_name("a/b") == ("a/b", None, "")
    assert split_name("a/b@refs/pr/1:c/d@e:f") == ("a/b", "refs/pr/1", "c/d@e:f")
    assert split_name("fineweb:CC-MAIN-2024-10") == ("fineweb", None, "CC-MAIN-2024-10")


FINEWEB = {
    "configs": [
        {"config_name": name, "data_files": [{"split": "train", "path": path}]}
        for name, path in [
            ("default", "data/*/*"),
            ("sample-10BT", "sample/10BT/*"),
            ("sample-100BT", "sample/100BT/*"),
            ("CC-MAIN-2024-10", "data/CC-MAIN-2024-10/*"),
        ]
    ]
}
FINEWEB_FILES = [
    "data/CC-MAIN-2013-20/000_00000.parquet",
    "data/CC-MAIN-2024-10/000_00000.parquet",
    "sample/100BT/000_00000.parquet",
    "sample/10BT/000_00000.parquet",
    "sample/10BT/001_00000.parquet",
]


@pytest.mark.parametrize(
    ("name", "repository", "card", "files", "chosen"),
    [
        ("fineweb", "HuggingFaceFW/fineweb", FINEWEB, FINEWEB_FILES, FINEWEB_FILES[3:]),
        ("fineweb-edu", "HuggingFaceFW/fineweb-edu", FINEWEB, FINEWEB_FILES, FINEWEB_FILES[3:]),
        ("fineweb:sample-100BT", "HuggingFaceFW/fineweb", FINEWEB, FINEWEB_FILES, FINEWEB_FILES[2:3]),
        ("fineweb:CC-MAIN-2024-10", "HuggingFaceFW/fineweb", FINEWEB, FINEWEB_FILES, FINEWEB_FILES[1:2]),
        (f"fineweb@{COMMIT}:default", "HuggingFaceFW/fineweb", FINEWEB, FINEWEB_FILES, FINEWEB_FILES[:2]),
        (
            "dclm",
            "mlfoundations/dclm-baseline-1.0",
            {},
            [
                f"global-shard_0{number}_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zst"
                for number in (1, 2)
            ],
            slice(None),
        ),
        (
            "tinystories",
            "roneneldan/TinyStories",
            {},
            [
                "TinyStories-train.txt",
                "TinyStoriesV2-GPT4-train.txt",
                "data/train-00000-of-00004-2d5a1467fff1081b.parquet",
                "data/validation-00000-of-00001-869c898b519ad725.parquet",
            ],
            slice(2, 3),
        ),
        (
            "openwebtext",
            "Skylion007/openwebtext",
            {},
            ["README.md", "plain_text/train-00000-of-00080.parquet", "subsets/urlsf_subset00.tar"],
            slice(1, 2),
        ),
        (
            "tinyshakespeare",
            "karpathy/tiny_shakespeare",
            {},
            [
                "default/test/0000.parquet",
                "default/train/0000.parquet",
                "default/validation/0000.parquet",
            ],
            slice(1, 2),
        ),
    ],
)
def test_the_names_find_the_files_where_their_repositories_have_them(
    name: str,
    repository: str,
    card: dict[str, Any],
    files: list[str],
    chosen: list[str] | slice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    for file in files:
        (tmp_path / "hub" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / file).write_bytes(b"something")
    with local_hub(repository, tmp_path / "hub", monkeypatch) as hub:
        hub.card = card
        if name == "tinyshakespeare":
            hub.branches["refs/convert/parquet"] = LATER
        source = find_source(name)
    found = [file.file.path for file in source.files if isinstance(file, Remote)]
    assert found == (files[chosen] if isinstance(chosen, slice) else chosen)
    assert source.name == name
    assert source.revision.startswith(f"hf:{repository}@{LATER if name == 'tinyshakespeare' else COMMIT}:")


def test_every_name_is_listed_with_its_size():
    listed = data_list.run()["sources"]
    assert [source["name"] for source in listed] == list(SOURCES)
    assert all(source["size"] and source["description"] for source in listed)


def test_the_key_of_a_file_names_everything_its_jobs_depend_on():
    here, there = Repository("a/b", COMMIT, {}), Repository("a/b", LATER, {})
    file, other = HubFile("x.jsonl", 10, "", None), HubFile("y.jsonl", 10, "", None)
    made = [(here, file, None), (there, file, None), (here, other, None), (here, file, "text")]
    assert len({Remote.of(*arguments).key for arguments in made}) == 4


# Small jobs, so that a kill hits a file half-way.
SCRIPT = """
import sys
from gptlab import cli
from gptlab.data.prepare import jobs
jobs.JOB_BYTES = 500
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""


def wait_for(what: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_kills_cost_little_and_change_nothing(hub: LocalHub, tmp_path: Path):
    (tmp_path / "run.py").write_text(SCRIPT)
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HOME": str(home), "XDG_CACHE_HOME": str(home / "x")}
    environment = {name: value for name, value in environment.items() if name != "HF_HOME"}

    def start(folder: Path) -> "subprocess.Popen[str]":
        words = ["data", "prepare", NAME, str(folder), "--tokenizer", "bytes", "--workers", "2"]
        return subprocess.Popen(
            [sys.executable, tmp_path / "run.py", *words],
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def done() -> int:
        return len(list(out.glob(".partial/*.npy")))

    def kill(process: "subprocess.Popen[str]") -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    run(tmp_path / "whole")
    sizes = {name: (hub.folder / name).stat().st_size for name in FILES}
    hub.sent.clear()

    # The second download stops half-way, while the first file is tokenized to its end.
    hub.blocked[FILES[1]] = threading.Event()
    process = start(out)
    pieces = find_source(NAME).files[0].open(tmp_path / "look")
    first = len(jobs.cut_jobs(pieces, load_tokenizer("bytes"), None))
    hub.sent[FILES[0]] -= sizes[FILES[0]]
    wait_for(lambda: hub.sent[FILES[1]] > 0 and done() == first, process)
    kill(process)
    hub.blocked.pop(FILES[1]).set()
    assert hub.sent == {FILES[0]: sizes[FILES[0]], FILES[1]: sizes[FILES[1]] // 2}

    # The third download stops, while the second file is tokenized, but not to its end.
    hub.blocked[FILES[2]] = threading.Event()
    process = start(out)
    wait_for(lambda: done() > first, process)
    kill(process)
    hub.blocked.pop(FILES[2]).set()
    before = done()

    process = start(out)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert contents(out) == contents(tmp_path / "whole")
    assert hub.sent[FILES[0]] == sizes[FILES[0]]
    # Half of the second file came before the first kill, all of it after, and perhaps again after the second kill.
    assert hub.sent[FILES[1]] in (sizes[FILES[1]] * 3 // 2, sizes[FILES[1]] * 5 // 2)
    assert hub.sent[FILES[3]] == sizes[FILES[3]]
    assert before >= first

    process = start(out)
    assert "already prepared" in process.communicate(timeout=120)[0]
    written = {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()}
    assert written <= {(".cache", "huggingface"), ("x", "huggingface")}
