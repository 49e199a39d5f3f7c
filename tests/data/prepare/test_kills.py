"""Preparation with its process group killed by SIGKILL at random moments of all phases."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from gptlab.data.manifest import MANIFEST, Manifest

# Small jobs and small shards, for many moments at which something can go wrong.
SCRIPT = """
import sys
from gptlab import cli
from gptlab.data.sources import json_files
from gptlab.data.prepare import jobs, prepare
json_files.JSONL_PIECE_BYTES, jobs.JOB_BYTES = 50_000, 100_000
prepare.prepare.__kwdefaults__["shard_tokens"] = 200_000
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""


def hashes(out):
    return [(shard.file, shard.sha256) for shard in Manifest.load(out).shards]


def phase(out):
    """How far a preparation got before it was killed."""
    if (out / MANIFEST).exists():
        return "done"
    if any(out.glob("*.bin")) or any(out.glob(".*.bin.*")):
        return "writing shards"
    return "encoding" if any(out.glob(".partial/*")) else "starting"


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_shards_are_the_same_after_any_number_of_kills(kills, tmp_path):
    draw = random.Random(kills)
    words = [f"word{number}" for number in range(500)]
    with (tmp_path / "text.jsonl").open("w") as file:
        for _ in range(20_000):
            file.write(json.dumps({"text": " ".join(draw.choices(words, k=draw.randrange(1, 90)))}) + "\n")
    (tmp_path / "run.py").write_text(SCRIPT)

    def command(out, workers):
        words = ["data", "prepare", tmp_path / "text.jsonl", out, "--tokenizer", "bytes"]
        return [sys.executable, tmp_path / "run.py", *words, "--workers", str(workers)]

    began = time.monotonic()
    subprocess.run(command(tmp_path / "whole", 2), check=True, capture_output=True)
    whole_s = time.monotonic() - began
    out = tmp_path / "out"
    phases = Counter()
    while phases.total() < kills:
        began = time.monotonic()
        process = subprocess.Popen(
            command(out, 1 + phases.total() % 3),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _, said = process.communicate(timeout=draw.uniform(0.2, 1.0) * whole_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            phases[phase(out)] += 1
        else:
            # Finished before the kill, as the machine has grown less busy: start from scratch.
            assert process.returncode == 0, said
            assert hashes(out) == hashes(tmp_path / "whole")
            shutil.rmtree(out)
            whole_s = time.monotonic() - began
    subprocess.run(command(out, 2), check=True, capture_output=True)
    assert hashes(out) == hashes(tmp_path / "whole")
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert kills < 20 or (phases["encoding"] and phases["writing shards"]), phases
    assert (out / MANIFEST).read_bytes() == (tmp_path / "whole" / MANIFEST).read_bytes()
