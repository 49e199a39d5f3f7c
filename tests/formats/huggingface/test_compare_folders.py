"""Comparing with transformers at a bounded number of positions: what it detects and how much memory it takes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import ExportError
from gptlab.formats.huggingface.compare import PLACES, compare, compare_logits, places_of
from gptlab.formats.huggingface.write import export
from gptlab.sample import GeneratingGPT

MakeGPT = Callable[..., GeneratingGPT]


@pytest.mark.parametrize("length", [1, 2, 40, PLACES, PLACES + 1, 1000, 32_768, 1_000_003])
def test_the_places_are_the_ends_and_what_lies_between(length: int) -> None:
    places = places_of(length).tolist()
    assert places[0] == 0
    assert places[-1] == length - 1
    assert len(places) == len(set(places)) == min(length, PLACES)
    assert places == sorted(places)
    gaps = [b - a for a, b in pairwise(places)] or [1]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("change", ["last position", "rope_theta"])
def test_a_difference_far_out_is_seen(change: str, gpt: MakeGPT, tmp_path: Path) -> None:
    context = 4 * PLACES + 3
    switches: dict[str, Any] = {} if change == "last position" else {"position": "rope"}
    model, out = gpt(context=context, **switches), tmp_path / "out"
    export(model, load_tokenizer("bytes"), out, verify=False)
    assert compare(model, load_tokenizer("bytes"), out) < 1e-4
    if change == "last position":
        tensors = load_file(out / "model.safetensors")
        tensors["transformer.wpe.weight"][-1] += 0.1 * torch.randn(48)
        save_file(tensors, out / "model.safetensors", {"format": "pt"})
    else:
        config = json.loads((out / "config.json").read_text())
        config["rope_parameters"]["rope_theta"] = 10_001.0
        (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="transformers' logits are up to"):
        compare_logits(model, out)


# The logits of the whole context exceed the allowed memory; for VaultGemma, attention's scores do too. The memory
# in use before is the interpreter's, torch's and transformers'.
UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
import torch
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.model.gpt import ModelConfig
from gptlab.formats.huggingface import write as folder
from gptlab.formats.huggingface.compare import compare_logits
from gptlab.formats.huggingface.write import export
from gptlab.formats.huggingface.compare import compare
from gptlab.sample import GeneratingGPT

switches = {"own": {"norm": "rmsnorm"}, "gpt2": {}, "vaultgemma":
    {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "logit_soft_cap": 15.0}}[sys.argv[1]]
bytes_, out, few = load_tokenizer("bytes"), Path(sys.argv[2]), {"n_layer": 1, "n_head": 4, "n_embd": 32}
folder.fit_vocabulary = lambda model, tokenizer: model
def make(name, **sizes):
    model = GeneratingGPT(ModelConfig(**few, **switches, **sizes)).eval()
    export(model, bytes_, out / name, verify=False)
    return model
compare(make("small", context=64, vocab_size=300), bytes_, out / "small")  # so that all is imported
model = make("large", context=6000, vocab_size=20_000)
held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + (360 << 20),) * 2)
try:
    torch.zeros(6000, 20_000)
    raise SystemExit("the limit is none")
except RuntimeError:
    pass
difference = compare(model, bytes_, out / "large")
if sys.argv[1] != "own":
    compare_logits(model, out / "large")
print(difference)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's means")
@pytest.mark.parametrize("kind", ["gpt2", pytest.param("vaultgemma", marks=pytest.mark.long), "own"])
def test_memory_does_not_grow_with_context_times_vocabulary(kind: str, tmp_path: Path) -> None:
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    words = [sys.executable, "-c", UNDER_A_LIMIT, kind, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | settings, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1e-4
