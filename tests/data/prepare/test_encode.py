import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from gptlab.data.prepare import prepare as prepare_module
from gptlab.data.prepare.jobs import Job
from gptlab.data.prepare.prepare import prepare
from gptlab.data.sources.files import cut_file
from gptlab.data.sources.source import File, Local, Source
from gptlab.errors import DataError

OPENED = []


@dataclass(frozen=True)
class Remote(File):
    """A file that is fetched by copying it from elsewhere."""

    origin: str

    def open(self, folder: Path):
        OPENED.append(self.key)
        if self.key == "broken":
            raise DataError("file broken: cannot be had")
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"{self.key}.txt"
        copy.write_bytes(Path(self.origin).read_bytes())
        return list(cut_file(copy, None, f"somewhere {self.key}"))

    def close(self, folder: Path):
        (folder / f"{self.key}.txt").unlink(missing_ok=True)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A source of five files that are fetched one by one."""
    OPENED.clear()
    files = []
    for number in range(5):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"file {number} " * 100)
        files.append(Remote(f"file{number}", path.stat().st_size, str(path)))
    source = Source("remote", "r1", tuple(files))
    monkeypatch.setattr(prepare_module, "find_source", lambda *_: source)
    return source


def run(out, **options):
    return prepare("remote", out, tokenizer="bytes", workers=1, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_are_fetched_in_order_and_deleted(remote, tmp_path, monkeypatch):
    lying = []
    plain = Remote.close

    def noted(self, folder):
        lying.append(len(list(folder.glob("*.txt"))))
        plain(self, folder)

    monkeypatch.setattr(Remote, "close", noted)
    facts = run(tmp_path / "out")
    assert facts["train"]["documents"] + facts["val"]["documents"] == 5
    assert [f"file{number}" for number in range(5)] == OPENED
    assert len(lying) == 5
    assert max(lying) <= 2  # the file being encoded, and the next


def test_where_it_was_fetched_to_does_not_matter(remote, tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "elsewhere" / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "elsewhere" / "b")


def test_what_is_done_is_not_fetched_again(remote, tmp_path, monkeypatch):
    run(tmp_path / "whole")
    OPENED.clear()
    third = Remote("broken", remote.files[3].bytes, "")
    broken = Source("remote", "r1", (*remote.files[:3], third, remote.files[4]))
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "find_source", lambda *_: broken)
        with pytest.raises(DataError, match="file broken: cannot be had"):
            run(tmp_path / "out")
    assert OPENED == ["file0", "file1", "file2", "broken"]
    OPENED.clear()
    run(tmp_path / "out")
    assert OPENED == ["file3", "file4"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_only_what_is_wanted_is_fetched(remote, tmp_path):
    run(tmp_path / "out", max_tokens=remote.files[0].bytes - 50)
    assert OPENED == ["file0"]
    OPENED.clear()
    run(tmp_path / "more", max_tokens=1000)
    assert OPENED == ["file0", "file1"]


def test_what_is_damaged_of_an_earlier_run_is_made_anew(remote, tmp_path, monkeypatch):
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "deal", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "out")
    partial = tmp_path / "out" / ".partial"
    for record in (partial / "source.json", *partial.glob("*.jobs.json")):
        record.write_text('[["../x", 1]]')
    run(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_nothing_is_fetched_where_an_earlier_run_got_far_enough(remote, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "deal", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "out", max_tokens=1000)
    OPENED.clear()
    run(tmp_path / "out", max_tokens=1000)
    assert not OPENED


def test_the_next_file_is_fetched_while_this_one_is_encoded(remote, tmp_path, monkeypatch):
    fetched = {file.key: threading.Event() for file in remote.files}
    open_, encode = Remote.open, Job.encode

    def opened(self, folder):
        fetched[self.key].set()
        return open_(self, folder)

    def encoded(job, *args):
        number = int(job.pieces[0].stamp[-1])
        assert number == 4 or fetched[f"file{number + 1}"].wait(60)
        encode(job, *args)

    monkeypatch.setattr(Remote, "open", opened)
    monkeypatch.setattr(Job, "encode", encoded)
    run(tmp_path / "out")


def test_a_source_that_holds_more_than_was_thought_is_read_on(remote, tmp_path, monkeypatch):
    poor = Source("remote", "r1", tuple(Remote(file.key, 10**6, file.origin) for file in remote.files))
    monkeypatch.setattr(prepare_module, "find_source", lambda *_: poor)
    facts = run(tmp_path / "out", max_tokens=2500, val_tokens=100)
    assert facts["train"]["tokens"] + facts["val"]["tokens"] == 2500
    assert OPENED[:3] == ["file0", "file1", "file2"]


def test_a_part_fetches_only_its_own_files(remote, tmp_path):
    run(tmp_path / "whole")
    OPENED.clear()
    run(tmp_path / "out", part="1/5")
    assert OPENED == ["file0"]
    for number in range(2, 6):
        run(tmp_path / "out", part=f"{number}/5")
    prepare_module.merge(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_files_that_are_here_share_jobs(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("x")
    pieces = [piece for path in sorted(tmp_path.iterdir()) for piece in cut_file(path, None)]
    part = Local.of(pieces)
    assert (part.bytes, len(part.open(tmp_path))) == (30, 30)
    assert Local.of(pieces).key == part.key
    (tmp_path / "3.txt").write_text("changed")
    changed = [piece for path in sorted(tmp_path.iterdir()) for piece in cut_file(path, None)]
    assert Local.of(changed).key != part.key


def test_two_at_once_are_refused(remote, tmp_path, monkeypatch):
    held, release = threading.Event(), threading.Event()
    plain = Remote.open

    def slow(self, folder):
        held.set()
        release.wait(60)
        return plain(self, folder)

    monkeypatch.setattr(Remote, "open", slow)
    first = threading.Thread(target=run, args=(tmp_path / "out",))
    first.start()
    assert held.wait(60)
    with pytest.raises(DataError, match="another process is preparing it"):
        run(tmp_path / "out")
    release.set()
    first.join()
    assert run(tmp_path / "out")["already_prepared"] is True


def test_a_disk_that_fills_up_on_the_way_is_a_clear_stop(remote, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    free = iter([10**9, 10**9, 10**9, 10])
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage(0, 0, next(free, 10)))
        with pytest.raises(DataError, match=r"out: needs about .*B, but only 10B are free; make room"):
            run(tmp_path / "out")
    done = len(list((tmp_path / "out" / ".partial").glob("*.npy")))
    assert done >= 2
    OPENED.clear()
    run(tmp_path / "out")
    assert len(OPENED) == 5 - done
