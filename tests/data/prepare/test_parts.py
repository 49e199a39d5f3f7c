import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from gptlab import cli
from gptlab.data.manifest import MANIFEST
from gptlab.data.prepare import jobs as jobs_module
from gptlab.data.prepare.prepare import merge, prepare
from gptlab.data.prepare.request import SourcePart
from gptlab.data.sources import json_files
from gptlab.data.verify import verify
from gptlab.errors import DataError

PARTS = 3


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch):
    monkeypatch.setattr(json_files, "JSONL_PIECE_BYTES", 2_000)
    monkeypatch.setattr(jobs_module, "JOB_BYTES", 4_000)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "source"
    folder.mkdir()
    for name, count in (("a", 300), ("b", 40)):
        lines = (json.dumps({"text": f"{name} {number} " * 10}) + "\n" for number in range(count))
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "c.txt").write_text("one document " * 500)
    return folder


@pytest.fixture
def whole(source, tmp_path):
    prepare(source, tmp_path / "whole", tokenizer="bytes", workers=1)
    return contents(tmp_path / "whole")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make(source, out, number, **options):
    return prepare(source, out, tokenizer="bytes", workers=1, part=f"{number}/{PARTS}", **options)


def test_parts_in_one_folder_make_what_one_machine_makes(source, whole, tmp_path):
    out = tmp_path / "out"
    facts = [make(source, out, number) for number in (2, 3, 1)]
    assert [one["part"] for one in facts] == ["2/3", "3/3", "1/3"]
    assert all(one["jobs"] > 1 for one in facts)
    assert not (out / MANIFEST).exists()
    assert merge(out)["already_prepared"] is False
    assert contents(out) == whole
    verify(out)
    assert merge(out)["already_prepared"] is True


def test_parts_in_folders_of_their_own_are_brought_together(source, whole, tmp_path):
    for number in range(1, PARTS + 1):
        make(source, tmp_path / f"part{number}", number)
    merge(tmp_path / "out", [tmp_path / f"part{number}" for number in range(1, PARTS + 1)])
    assert contents(tmp_path / "out") == whole


def test_a_trained_tokenizer_comes_along_with_the_parts(source, tmp_path):
    from gptlab.data.sources.table import find_source
    from gptlab.data.train_tokenizer import train_tokenizer

    train_tokenizer(find_source(source).documents(), 300).save(str(tmp_path / "bpe.json"))
    for number in range(1, PARTS + 1):
        prepare(source, tmp_path / f"{number}", tokenizer=tmp_path / "bpe.json", part=f"{number}/{PARTS}")
    (tmp_path / "bpe.json").rename(tmp_path / "elsewhere.json")
    merge(tmp_path / "out", [tmp_path / f"{number}" for number in range(1, PARTS + 1)])
    prepare(source, tmp_path / "one", tokenizer=tmp_path / "elsewhere.json")
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def test_more_parts_than_jobs_leave_some_empty(source, whole, tmp_path):
    for number in range(1, 101):
        prepare(source, tmp_path / "out", tokenizer="bytes", workers=1, part=f"{number}/100")
    merge(tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_gaps_are_refused(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="holds no part; make them with"):
        merge(out)
    make(source, out, 2)
    with pytest.raises(DataError, match=r"part 1/3, 3/3 missing; make it .* --part 1/3"):
        merge(out)
    make(source, out, 1)
    make(source, out, 3)
    lost = sorted((out / ".partial").glob("*.npy"))[0]
    lost.unlink()
    with pytest.raises(DataError, match=rf"lacks a file of job {lost.name[:8]}"):
        merge(out)
    assert not (out / MANIFEST).exists()


def test_parts_that_do_not_belong_together_are_refused(source, tmp_path):
    out = tmp_path / "out"
    make(source, out, 1)
    make(source, out, 2)
    prepare(source, tmp_path / "other", tokenizer="bytes", part="3/3", val_tokens=700)
    with pytest.raises(DataError, match=r"part 3/3 has settings .*700.*, part 1/3 has"):
        merge(out, [tmp_path / "other"])
    prepare(source, tmp_path / "finer", tokenizer="bytes", part="3/4")
    with pytest.raises(DataError, match="part 3/4 does not go with part 1/3"):
        merge(out, [tmp_path / "finer"])


def test_a_damaged_record_is_named(source, tmp_path):
    make(source, tmp_path, 1)
    [record] = (tmp_path / ".partial").glob("part-*.json")
    whole = json.loads(record.read_text())
    settings = whole["settings"]
    for change in (
        {"part": [4, 3]},
        {"part": [True, 3]},
        {"jobs": [["../x", 1]]},
        {"bytes": -1},
        {"settings": {**settings, "shard_tokens": 0}},
        {"settings": {**settings, "workers": 9}},
        {"tokenizer": {**whole["tokenizer"], "name": "../x"}},
    ):
        record.write_text(json.dumps(whole | change))
        with pytest.raises(DataError, match=r"part-00001-of-00003.json: is not a part's record"):
            merge(tmp_path)
    for text in ("", "[]", "{}", "[" * 100_000):
        record.write_text(text)
        with pytest.raises(DataError, match=r"part-00001-of-00003.json: is not a part's record"):
            merge(tmp_path)
    record.write_text(json.dumps(whole | {"part": [2, 10**12]}))
    with pytest.raises(DataError, match=r"part 1/1000000000000, 3/1000000000000, "):
        merge(tmp_path)


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "a/b", "1/3/5", "-1/3"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(DataError, match=f"--part {text}: must be I/N"):
        SourcePart.read(text)


def test_a_part_takes_no_limit(source, tmp_path):
    with pytest.raises(DataError, match="a part cannot know what the others hold"):
        make(source, tmp_path / "out", 1, max_tokens=100)


def test_parts_cover_everything_once():
    for of in (1, 2, 7, 16):
        ranges = [SourcePart(number, of).range(1_000_003) for number in range(1, of + 1)]
        assert ranges[0].start == 0
        assert ranges[-1].stop == 1_000_003
        assert all(left.stop == right.start for left, right in pairwise(ranges))


def test_the_commands(source, whole, tmp_path, capsys):
    out = str(tmp_path / "out")
    for number in (1, 2):
        assert (
            cli.main(["data", "prepare", str(source), out, "--tokenizer", "bytes", "--part", f"{number}/2"])
            == 0
        )
    assert f"gptlab data merge {out}" in capsys.readouterr().out
    assert cli.main(["data", "merge", out, "--json", str(tmp_path / "facts.json")]) == 0
    assert contents(Path(out)) == whole
    assert json.loads((tmp_path / "facts.json").read_text())["train"]["documents"] > 200
    shutil.rmtree(out)
    assert cli.main(["data", "merge", out]) == 1
