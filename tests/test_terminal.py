"""Whatever happens to standard output and error, training continues and nothing ends in a traceback."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

FULL = os.path.exists("/dev/full")  # noqa: PTH110
STEPS = ("--train.steps", "6", "--eval.every-steps", "3")


def gptlab(shell, *words, env=None):
    """Run a command in a shell that redirects or closes its streams."""
    line = " ".join([sys.executable, "-m", "gptlab", *(f"'{word}'" for word in words), shell])
    return subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, check=False)


def last(out):
    return (out / "latest").read_text().strip()


@pytest.mark.skipif(not FULL, reason="needs /dev/full")
@pytest.mark.parametrize(
    "shell",
    [
        ">/dev/full 2>&1",
        ">&- 2>&- <&-",
        "| true",
        *(pytest.param(shell, marks=pytest.mark.long) for shell in (">/dev/full", ">&-")),
    ],
)
def test_training_goes_on_without_words(tiny_recipe, tmp_path, shell):
    out = tmp_path / "run"
    done = gptlab(f"{shell}; exit ${{PIPESTATUS[0]}}", "train", tiny_recipe, "--out", out, *STEPS)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert last(out) == "step_00000006"
    # No output of others is in the record, as it would be if the record took the place of a closed stream.
    assert all(line.startswith("{") for line in (out / "metrics.jsonl").read_text().splitlines())


def test_an_encoding_that_lacks_characters(tiny_recipe, tmp_path):
    out = tmp_path / "caf\u00e9"
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = gptlab("", "train", tiny_recipe, "--out", out, *STEPS, env=env)
    assert done.returncode == 0, done.stderr
    assert "caf\\xe9: finished" in done.stdout
    said = gptlab("", "sample", out, "--prompt", "caf\u00e9 ", "--max-tokens", "3", env=env)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("caf\\xe9 ")


@pytest.mark.skipif(not FULL, reason="needs /dev/full")
def test_other_commands_say_in_one_line_that_their_output_is_lost(finished_run, tmp_path):
    done = gptlab(">/dev/full", "config", finished_run / "config.toml")
    assert done.returncode == 1
    assert done.stderr == "gptlab config: standard output: No space left on device\n"
    for words in (["--help"], ["data", "list"], ["nonsense"]):
        done = gptlab(">/dev/full", *words)
        assert len(done.stderr.splitlines()) == 1 or words == ["nonsense"]
        assert "Traceback" not in done.stderr
    done = gptlab("| head -n 1", "data", "list")
    assert (done.returncode, done.stderr) == (0, "")


def started(words, **options):
    process = subprocess.Popen([sys.executable, "-m", "gptlab", *map(str, words)], **options)
    out = words[words.index("--out") + 1]
    until = time.monotonic() + 60
    while not ((out / "metrics.jsonl").is_file() and '"step": 5,' in (out / "metrics.jsonl").read_text()):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.skipif(not FULL, reason="needs /dev/full")
def test_a_wish_to_stop_is_heard_where_nothing_can_be_said(tiny_recipe, tmp_path):
    out = tmp_path / "run"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = started(
            ["train", tiny_recipe, "--out", out, "--train.steps", 5000, "--eval.every-steps", 5000],
            stdout=full,
            stderr=full,
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 75
    assert last(out) > "step_00000000"


def test_a_terminal_that_goes_away(tiny_recipe, tmp_path):
    out = tmp_path / "run"
    ours, theirs = pty.openpty()
    process = started(
        ["train", tiny_recipe, "--out", out, "--train.steps", 300, "--eval.every-steps", 300],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=os.setsid,
    )
    os.close(theirs)
    os.close(ours)  # as when a window is closed
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 0
    assert last(out) == "step_00000300"
