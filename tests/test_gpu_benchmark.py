"""benchmarks/gpu.py in small, so that it cannot break unseen on machines without a GPU; and step.py's race."""

import importlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import FORKS, Forked
from torch import nn

from gptlab.eval import tree
from gptlab.machine.device import describe

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # as Python does for a file that lies there
gpu, step, parity, section = map(
    importlib.import_module, ("gpu", "step", "sections.parity", "sections.section")
)

TINY = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny"]


def sections(out):
    return gpu.kept(out)


def be_section(words):
    """Be the process of a section, whose sides are forked as well."""
    fork = multiprocessing.get_context("fork")
    step.multiprocessing.get_context = lambda way: fork
    sys.argv = ["gpu.py", *words]
    return gpu.main()


def forked(command, limit_s, scratch, look):
    """Supervise a section, in a process that need not import torch."""
    process = Forked(command[2:], main=be_section)
    _, said = process.communicate()
    found = gpu.read_json(scratch / "found.json")
    status = "done" if process.returncode == 0 else f"failed: {found.pop('failure', process.returncode)}"
    return gpu.Outcome(status, 1.0, found, said.splitlines())


@pytest.fixture
def forks(monkeypatch):
    """Sides of a race in processes that need not import torch."""
    monkeypatch.setattr(step.multiprocessing, "get_context", lambda way: FORKS)


@pytest.fixture
def benchmark(monkeypatch):
    """The command in this process, its sections in forked ones."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(gpu, "supervise", forked)
    monkeypatch.setattr(gpu.signal, "signal", lambda number, handler: None)

    def run(out, *words):
        monkeypatch.setattr(sys, "argv", [*TINY[1:], "--out", str(out), *words])
        return gpu.main()

    return run


@pytest.mark.slow
def test_the_whole_command(benchmark, tmp_path, capsys):
    out = tmp_path / "out"
    code = benchmark(out, "--limit-scale", "3")  # a busy machine is no fault
    said = capsys.readouterr().out
    assert code == 0, said
    files = list(out.iterdir())
    assert len(files) <= 7
    assert all(file.is_file() for file in files)
    assert {file.name for file in files} == {gpu.SUMMARY, *(one.file for one in gpu.SECTIONS.values())}
    device = describe(torch.device("cpu"))["device"]
    assert all(device in file.read_text() for file in files)
    assert (out / gpu.SUMMARY).read_text() in said

    found = sections(out)
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(gpu.SECTIONS, "done")
    found = {name: one["found"] for name, one in found.items()}
    rows = found["parity"]["comparisons"]
    assert {row["how"] for row in rows} == set(parity.COMPARED)
    assert {row["format"] for row in rows} == set(parity.BOUNDS)
    assert all(row["within"] for row in rows)
    assert found["tests"]["counts"]["failed"] == found["tests"]["counts"]["error"] == 0
    race = found["step"]
    assert len(race["sides"]) + len(race["absent"]) == 5
    assert len(race["as_fast"]) == len(race["sides"]) - 1
    for ratios in race["as_fast"].values():
        assert len(ratios["rounds"]) == 2
        assert 0 < ratios["least"] <= ratios["median"] <= ratios["most"] < math.inf
    assert all(side["failure"] is None and side["peak_memory_gb"] > 0 for side in race["sides"].values())
    assert found["roofline"]["copy"]["gb_per_s"] > 0
    assert found["roofline"]["attention"]["MATH"]["seconds"] > 0
    assert [one["sequences"] for one in found["memory"]["micro_batches"]["gpt2-350m"]["micro_batches"]] == [
        1,
        2,
    ]
    assert found["speed"]["hellaswag"]["float32"]["items_per_s"] > 0
    assert found["speed"]["sampled_tokens_per_s"]["8"] > 0
    shares = [kernel["share"] for kernel in found["profile"]["kernels"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1.001
    (learned,) = found["learn"]["recipes"].values()
    losses = list(learned["val_loss"].values())
    assert list(map(int, learned["val_loss"])) == [0, learned["steps"] // 2, learned["steps"]]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_recipe_that_fails_costs_no_other_and_no_other_section(benchmark, tmp_path):
    out, bad = tmp_path / "out", tmp_path / "bad.toml"
    bad.write_text("[train]\nno_such_key = 3\n")
    kept = {"sections": {"parity": {"status": "done", "seconds": 1.0, **FACTS, "found": {}}}}
    out.mkdir()
    (out / "parity.json").write_text(json.dumps(kept))
    only = ["--only", "environment", "--only", "learn", "--learn", str(bad), "recipes/tiny_cpu.toml"]
    assert benchmark(out, *only) == 1
    found = sections(out)
    assert list(found) == ["environment", "parity", "learn"]
    assert found["environment"]["status"] == "done"
    assert json.loads((out / "parity.json").read_text()) == kept
    assert found["learn"]["status"].startswith("failed: bad (train.no_such_key: ")
    assert list(found["learn"]["found"]["recipes"]["tiny_cpu"]["val_loss"]) == ["0", "4", "8"]
    assert "parity: done (1 s), device some card" in (out / gpu.SUMMARY).read_text()


FACTS = {"device": "some card", "torch": "2.0", "commit": None, "tiny": True}
NOTE = "import json, pathlib, sys; pathlib.Path(sys.argv[1], 'found.json').write_text(json.dumps({}))\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", "done"),
        ("raise SystemExit(3)", "failed: exit code 3"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "failed: its process was ended by SIGSEGV",
        ),
        ("import time; print('asleep', flush=True); time.sleep(60)", "out of time"),
    ],
)
def test_what_was_found_outlives_a_section(tmp_path, code, status):
    note = NOTE.format({"copy": 1})
    seen = []
    command = [sys.executable, "-c", f"{note}{code}", str(tmp_path)]
    outcome = gpu.supervise(command, 2 if status == "out of time" else 30, tmp_path, seen.append)
    assert (outcome.status, outcome.found) == (status, {"copy": 1})
    if status == "out of time":
        assert outcome.log == ["asleep"]
        assert {one.status for one in seen} == {"running"}
        assert 2 <= outcome.seconds < 10


def test_what_a_section_started_ends_with_it(tmp_path):
    code = "import subprocess; child = subprocess.Popen(['sleep', '60'])\n" + NOTE.format("child.pid")
    outcome = gpu.supervise([sys.executable, "-c", f"{code}child.wait()", str(tmp_path)], 2, tmp_path)
    assert outcome.status == "out of time"
    assert not alive(outcome.found)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody may have asked yet how it ended.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def is_section(pid):
    """Say whether a child has become a section's process; another child is git."""
    try:
        return b"--section" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_whoever_ends_the_command_ends_its_section(tmp_path):
    process = subprocess.Popen([*TINY, "--out", str(tmp_path), "--only", "step"], cwd=ROOT)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while not (pids := [pid for pid in children.read_text().split() if is_section(pid)]):
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)  # on a busy machine, until the command knows that its section has started
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not any(alive(int(pid)) for pid in pids)


def test_a_summary_of_what_there_is(tmp_path):
    for name in gpu.SECTIONS:
        gpu.keep(tmp_path, name, gpu.Outcome("out of time", 2.0, {}, ["a line"]), FACTS)
    told = gpu.summary(tmp_path, FACTS)
    assert told.splitlines()[0] == "some card, torch 2.0, commit None, tiny"
    assert all(f"\n{name}: out of time (2 s)\n" in told for name in gpu.SECTIONS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "tset"], "--only tset: no such section; there are environment, parity, tests, step, "),
        (["--device", "cpu"], "--device cpu: would take hours; add --tiny"),
        (["--learn", "a.toml+b.toml"], "--learn a.toml: no such file; see the recipes/ folder"),
        (["--out", __file__], f"--out {__file__}: is a file; name a folder"),
    ],
)
def test_bad_arguments_end_in_a_line(tmp_path, words, said):
    with pytest.raises(SystemExit) as error:
        gpu.parse(
            ["--out", str(tmp_path), "--device", "cpu", *["--tiny"] * ("--device" not in words), *words]
        )
    assert str(error.value).startswith(said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(tmp_path):
    with pytest.raises(SystemExit, match="--device cuda: torch finds no CUDA device here"):
        gpu.parse(["--out", str(tmp_path)])


def test_parity_sees_a_wrong_mask(tmp_path, monkeypatch):
    cpu, visible = torch.device("cpu"), tree.visible
    job = section.Job(cpu, True, [], 1.0, tmp_path)
    cases = [parity._case(job, switches) for switches in parity.VARIANTS.values()]
    _, bound = parity.BOUNDS["float32"]
    assert all(error <= bound for case in cases for error in parity._masked(cpu, case, "float32"))
    monkeypatch.setattr(tree, "visible", lambda *layout: torch.ones_like(visible(*layout)))
    assert all(error > 10 * bound for case in cases for error in parity._masked(cpu, case, "float32"))


def works(work, compiled):
    model = nn.Embedding(work.vocabulary, work.vocabulary)
    return model, lambda ids, targets: nn.functional.cross_entropy(
        model(ids).flatten(0, 1), targets.flatten()
    )


def fails(work, compiled):
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")


def dies(work, compiled):
    model, loss = works(work, compiled)
    calls = []

    def last_words(ids, targets):
        calls.append(1)
        return os._exit(7) if len(calls) > 2 * step.WARM_UP else loss(ids, targets)

    return model, last_words


def hangs(work, compiled):
    time.sleep(600)


@pytest.mark.slow
def test_a_side_that_fails_is_told_and_the_others_go_on(forks):
    sides = {build.__name__: step.Side(build) for build in (works, fails, dies, hangs)}
    sides["too"] = step.Side(works)
    work = step.Workload(
        {"context": 4}, vocabulary=11, sequences=2, micro_batches=2, dtype="float32", device="cpu"
    )
    told = []
    lanes = step.race(
        sides, work, 3, together=True, patience_s=12, after=lambda lanes: told.append(len(lanes))
    )
    assert {name: lane.failure for name, lane in lanes.items()} == {
        "works": None,
        "fails": "OutOfMemoryError: CUDA out of memory. Tried to allocate",
        "dies": "its process died (exit code 7)",
        "hangs": "no answer in time",
        "too": None,
    }
    assert {name: len(lane.seconds) for name, lane in lanes.items() if lane.seconds} == {"works": 3, "too": 3}
    assert list(step.speedups(lanes, "works")) == ["too"]
    assert told == [5] * 4


@pytest.mark.slow
def test_the_step_without_git(tmp_path, forks, monkeypatch):
    file = tmp_path / "step.json"
    words = ["--size", "tiny", "--sequences", "1", "--rounds", "1", "--device", "cpu", "--json", str(file)]
    words += ["--side", "gptlab", "--side", "transformers"]
    monkeypatch.setattr(sys, "argv", ["step.py", *words])
    monkeypatch.setenv("PATH", "")
    assert step.main() == 0
    result = json.loads(file.read_text())
    assert result["commit"] is None
    assert result["failed"] == {}
    assert list(result["speedup"]) == ["gptlab"]
    assert result["speedup"]["gptlab"]["transformers"]["median"] > 0
