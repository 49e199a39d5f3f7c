import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gptlab
from gptlab.data.prepare import jobs as jobs_module
from gptlab.data.prepare.engines import ENGINES
from gptlab.data.prepare.prepare import prepare
from gptlab.data.sources import json_files
from gptlab.errors import DataError


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "JSONL_PIECE_BYTES", 20_000)
    monkeypatch.setattr(jobs_module, "JOB_BYTES", 20_000)
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.txt").write_text(f"text {number} " * 2_000)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# In its own process: Ray kills its driver if the cluster fails, and leaves threads behind if it does not.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import ray
from gptlab.cli import main
from gptlab.data.prepare import engines, jobs
from gptlab.data.sources import json_files
json_files.JSONL_PIECE_BYTES = jobs.JOB_BYTES = 20_000
killed, plain = Path(sys.argv[1]), engines._encode
def dies_once(job, encoder, folder):
    if not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    plain(job, encoder, folder)
engines._encode = dies_once  # Ray sends it along with the tasks
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
sys.exit(main(["data", "prepare", sys.argv[2], sys.argv[3], "--tokenizer", "bytes", "--engine", "ray"]))
"""


def on_ray(source, tmp_path):
    words = [sys.executable, "-c", SCRIPT, tmp_path / "killed", source, tmp_path / "out"]
    path = str(Path(gptlab.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_ray_cluster_loses_a_worker_and_makes_the_same_bytes(source, tmp_path):
    prepare(source, tmp_path / "whole", tokenizer="bytes", workers=1)
    done = on_ray(source, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_the_error_of_a_task_arrives_whole(source, tmp_path):
    (source / "05.txt").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "killed").touch()  # no kill this time
    done = on_ray(source, tmp_path)
    assert done.returncode == 1
    assert re.search(r"gptlab data prepare: file .*05\.txt: byte 0 is not UTF-8", done.stderr)


def test_a_missing_extra_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r'engine ray: is not installed; pip install "gptlab\[ray\]"'):
        prepare(source, tmp_path / "out", tokenizer="bytes", engine="ray")


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "ray"])
def test_engines_make_the_same_bytes(name, source, tmp_path):
    prepare(source, tmp_path / "whole", tokenizer="bytes", workers=1)
    prepare(source, tmp_path / "out", tokenizer="bytes", workers=2, engine=name)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
