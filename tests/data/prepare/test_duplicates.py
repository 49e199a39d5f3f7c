import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab import cli
from gptlab.data.manifest import MANIFEST, Manifest
from gptlab.data.prepare import jobs as jobs_module
from gptlab.data.prepare.duplicates import Copies, repeated
from gptlab.data.prepare.jobs import DOCUMENT, Job
from gptlab.data.prepare.prepare import prepare
from gptlab.data.shards import TOKEN, read_shard
from gptlab.data.sources import json_files
from gptlab.data.verify import verify
from gptlab.errors import DataError

# Three in four documents are copies of another, near or far.
TEXTS = [f"Document {i * i % 100}: {'lorem ipsum ' * (i * i % 13)}" for i in range(400)]


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "JSONL_PIECE_BYTES", 2_000)
    monkeypatch.setattr(jobs_module, "JOB_BYTES", 5_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def documents(folder: Path, split: str) -> list[str]:
    found: list[str] = []
    for path in sorted(folder.glob(f"{split}_*.bin")):
        tokens = read_shard(path)
        starts = [*np.flatnonzero(tokens == 256).tolist(), tokens.size]
        found += [bytes(tokens[a + 1 : b].tolist()).decode() for a, b in pairwise(starts)]
    return found


def test_the_first_of_equal_documents_stays(source: Path, tmp_path: Path):
    summary = prepare(source, tmp_path / "out", tokenizer="bytes", workers=1, deduplicate="exact")
    prepare(source, tmp_path / "all", tokenizer="bytes", workers=1)
    assert len(set(TEXTS)) < len(TEXTS) / 2
    for split in ("train", "val"):
        # dict.fromkeys keeps the first of equal documents in place: the slow, obvious way.
        assert documents(tmp_path / "out", split) == list(dict.fromkeys(documents(tmp_path / "all", split)))
    everything = documents(tmp_path / "all", "train") + documents(tmp_path / "all", "val")
    lost = len(TEXTS) - len(set(TEXTS))
    tokens = sum(1 + len(text) for text in everything) - sum(1 + len(text) for text in set(everything))
    assert summary["dropped"] == {"documents": lost, "tokens": tokens}
    assert Manifest.load(tmp_path / "out").dropped == summary["dropped"]
    assert Manifest.load(tmp_path / "all").dropped is None
    verify(tmp_path / "out")


def test_the_bytes_do_not_depend_on_the_workers(source: Path, tmp_path: Path):
    for workers in (1, 2):
        prepare(source, tmp_path / str(workers), tokenizer="bytes", workers=workers, deduplicate="exact")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "12")
    assert one == two


@pytest.mark.parametrize("max_tokens", [1_000, 7_777, 20_000])
def test_the_limit_counts_before_copies_go(max_tokens: int, source: Path, tmp_path: Path):
    limits = {"tokenizer": "bytes", "workers": 1, "max_tokens": max_tokens}
    some = prepare(source, tmp_path / "out", deduplicate="exact", **limits)
    assert some["train"]["tokens"] + some["val"]["tokens"] + some["dropped"]["tokens"] == max_tokens
    prepare(source, tmp_path / "all", **limits)
    for split in ("train", "val"):
        expected = list(dict.fromkeys(documents(tmp_path / "all", split)))
        assert documents(tmp_path / "out", split) == expected


def test_the_folder_is_known_by_it(source: Path, tmp_path: Path):
    prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)
    with pytest.raises(DataError, match="deduplicate was None, is now exact; choose another folder"):
        prepare(source, tmp_path / "out", tokenizer="bytes", workers=1, deduplicate="exact")
    # In a folder made before this setting existed every document stayed.
    raw = json.loads((tmp_path / "out" / MANIFEST).read_text())
    del raw["settings"]["deduplicate"], raw["dropped"]
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(raw))
    assert prepare(source, tmp_path / "out", tokenizer="bytes", workers=1)["already_prepared"]


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["data", "prepare", str(source), str(tmp_path / "out"), "--tokenizer", "bytes", "--workers", "1"]
    assert cli.main([*words, "--deduplicate", "exact"]) == 0
    assert f", {len(TEXTS) - len(set(TEXTS))} copies of " in capsys.readouterr().out


def make_jobs(folder: Path, contents: list[list[bytes]], hashes: dict[bytes, int]) -> list[Job]:
    made = [Job(str(number), (), None) for number in range(len(contents))]
    for job, documents in zip(made, contents, strict=True):
        table = np.array([(hashes[document], len(document)) for document in documents], DOCUMENT)
        np.save(folder / f"{job.key}.documents.npy", table)
        (folder / f"{job.key}.tokens").write_bytes(np.frombuffer(b"".join(documents), "u1").astype(TOKEN))
    return made


@given(
    contents=st.lists(
        st.lists(st.sampled_from([b"a", b"aa", b"b", b"bcd", b"ccc"]), min_size=1), min_size=1, max_size=4
    )
)
def test_copies_by_the_slow_obvious_way(
    contents: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("jobs")
    hashes = {b"a": 5, b"aa": 2**64 - 1, b"b": 0, b"bcd": 7, b"ccc": 6}
    jobs = make_jobs(folder, contents, hashes)
    tables = [job.documents(folder) for job in jobs]
    copies = Copies(folder, [table["hash"] for table in tables])
    seen: set[bytes] = set()
    for job, table, documents in zip(jobs, tables, contents, strict=True):
        expected: list[bool] = []
        for document in documents:
            expected.append(document in seen)
            seen.add(document)
        assert copies.find(job, table).tolist() == expected
    together = [document for part in contents for document in part]
    assert copies.documents == len(together) - len(set(together))
    assert copies.tokens == sum(map(len, together)) - sum(map(len, set(together)))


def test_a_collision_drops_nothing(tmp_path: Path):
    [job] = make_jobs(tmp_path, [[b"one", b"two", b"one"]], {b"one": 1, b"two": 1})
    table = job.documents(tmp_path)
    assert Copies(tmp_path, [table["hash"]]).find(job, table).tolist() == [False, False, True]


def test_repeated_hashes():
    parts = [np.array(part, np.uint64) for part in ([3, 1, 2**64 - 1], [], [1, 1, 3, 9])]
    assert repeated(parts).tolist() == [1, 3]
    assert repeated([]).tolist() == []
