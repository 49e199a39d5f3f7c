import os
import signal
import sys

import pytest

from gptlab.data import files
from gptlab.data import jobs as jobs_module
from gptlab.data.engines import ENGINES
from gptlab.data.jobs import Job
from gptlab.data.prepare import prepare
from gptlab.errors import DataError


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "JSONL_PIECE_BYTES", 20_000)
    monkeypatch.setattr(jobs_module, "JOB_BYTES", 20_000)
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.txt").write_text(f"text {number} " * 2_000)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_loses_a_worker_and_makes_the_same_bytes(source, tmp_path, monkeypatch):
    import ray

    prepare(source, tmp_path / "whole", tokenizer="bytes", workers=1)
    killed = tmp_path / "killed"
    plain = Job.encode

    def dies_once(job, encoder, folder):
        if not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        plain(job, encoder, folder)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        # The tasks carry the patched method along, as their function is defined where it is patched.
        monkeypatch.setattr(
            "gptlab.data.engines._encode", lambda job, encoder, folder: dies_once(job, encoder, folder)
        )
        prepare(source, tmp_path / "out", tokenizer="bytes", engine="ray")
    finally:
        ray.shutdown()
    assert killed.exists()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_error_of_a_task_arrives_whole(source, tmp_path):
    import ray

    (source / "05.txt").write_bytes(b"\xff\xfe\xfd")
    try:
        with pytest.raises(DataError, match=r"05\.txt: byte 0 is not UTF-8"):
            prepare(source, tmp_path / "out", tokenizer="bytes", engine="ray", workers=2)
    finally:
        ray.shutdown()


def test_a_missing_extra_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r'engine ray: is not installed; pip install "gptlab\[ray\]"'):
        prepare(source, tmp_path / "out", tokenizer="bytes", engine="ray")


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "ray"])
def test_engines_make_the_same_bytes(name, source, tmp_path):
    prepare(source, tmp_path / "whole", tokenizer="bytes", workers=1)
    prepare(source, tmp_path / "out", tokenizer="bytes", workers=2, engine=name)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
