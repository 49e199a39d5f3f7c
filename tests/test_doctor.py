import json
import os
import subprocess
import sys

import pytest
import torch

from gptlab import cli
from gptlab.actions import doctor
from gptlab.actions.doctor import EXAMINATIONS, examine
from gptlab.machine import device
from gptlab.model import kernels


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return {finding.name: finding for finding in examine(tmp_path_factory.mktemp("doctor"))}


def test_everything_is_looked_at(findings):
    assert list(findings) == list(EXAMINATIONS)
    assert all(finding.detail and "\n" not in finding.detail for finding in findings.values())
    assert findings["renames"].status == "good"
    assert "auto is " in findings["formats"].detail
    assert findings["compiler"].status == "good"


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells of a CPU")
def test_which_attention_runs_is_told(findings):
    told = findings["attention"]
    assert told.status == "good"
    assert told.detail.startswith(
        "float32: flash, reading flash; bfloat16: flash, reading flash; float16: flash"
    )
    assert "copied" not in told.detail


def test_slow_attention_and_copied_heads_are_told(monkeypatch, tmp_path):
    def choose(device, dtype, head_dim, masked, grouped, gradients):
        return "math" if grouped or masked else "efficient"

    monkeypatch.setattr(kernels, "choose", choose)
    ((status, detail),) = EXAMINATIONS["attention"](tmp_path)
    assert status == "fair"
    assert "float32: efficient, reading math" in detail
    assert detail.endswith("shared key/value heads are copied in float32, bfloat16, float16")


def test_an_apple_gpu_is_told_and_that_it_is_untried(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "choose_device", lambda name: torch.device("mps"))
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M9")
    ((status, detail),) = EXAMINATIONS["device"](tmp_path)
    assert status == "fair"
    assert detail.startswith("Apple M9 by MPS, which gptlab has not been tried on")


@pytest.mark.slow
def test_a_compiler_that_fails_is_told_beforehand(tmp_path):
    env = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "gptlab", "doctor", str(tmp_path)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    (line,) = (line for line in done.stdout.splitlines() if "torch.compile" in line)
    assert "torch.compile fails" in line
    assert "training will run without it" in line


def test_one_that_breaks_hides_none(monkeypatch, tmp_path):
    def broken(folder):
        raise RuntimeError("two\nlines")
        yield

    def fine(folder):
        yield "good", str(folder)

    monkeypatch.setattr(doctor, "EXAMINATIONS", {"broken": broken, "fine": fine})
    assert [(f.name, f.status, f.detail) for f in examine(tmp_path)] == [
        ("broken", "bad", "RuntimeError: two lines"),
        ("fine", "good", str(tmp_path)),
    ]


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "EXAMINATIONS", {"disk": EXAMINATIONS["disk"]})
    assert cli.main(["doctor", str(tmp_path), "--json", str(tmp_path / "facts.json")]) == 0
    assert "free in" in capsys.readouterr().out
    assert json.loads((tmp_path / "facts.json").read_text())["disk"]["status"] in ("good", "fair")
    assert cli.main(["doctor", str(tmp_path / "nowhere")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_a_run_says_at_the_start_what_its_drive_cannot_do(monkeypatch, train, tmp_path, capsys):
    from gptlab.actions import train as run
    from gptlab.machine.drive import Drive

    monkeypatch.setattr(run, "probe", lambda folder: Drive(save_s=0.1, gaps=3, folders=True, syncs=True))
    train(tmp_path / "run", {"train": {"steps": 2}})
    said = capsys.readouterr().out
    assert "a file was missing 3 times while it was replaced; a crash may cost the newest" in said
