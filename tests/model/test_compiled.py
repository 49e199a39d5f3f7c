"""The model and its loss under torch.compile: one graph, the same numbers, no atomic additions.

Each is forked from a process without the shape checks of a test run, which cannot be compiled.
"""

import contextlib
import json
import subprocess
import sys

import pytest
from forked import Forked

HEAD = """
import json, sys, torch
from torch._inductor.utils import run_and_get_code
from gptlab.model import loss
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.train.objective import Objective

torch.manual_seed(0)
def apart(ours, theirs):
    return max(float((a - b).norm() / b.norm().clamp(min=1e-9)) for a, b in zip(ours, theirs))
"""

LOSS = """
loss.HEAD_MULTIPLE["cpu"] = 64  # as on a GPU
x = torch.randn(3, 11, 16, requires_grad=True)
weight = torch.randn(37, 16, requires_grad=True)
targets = torch.randint(37, (3, 11))
targets[0, :3] = loss.IGNORED
found = []
for cap in (None, 5.0):
    compiled = torch.compile(loss.next_token_loss, fullgraph=True, dynamic=False)
    total, sources = run_and_get_code(compiled, x, weight, targets, logit_soft_cap=cap)
    ours = torch.autograd.grad(total, (x, weight))
    plain = loss.next_token_loss(x, weight, targets, logit_soft_cap=cap)
    theirs = torch.autograd.grad(plain, (x, weight))
    found.append([apart([total, *ours], [plain, *theirs]), sum("atomic_add" in source for source in sources)])
print(json.dumps(found))
"""

MODEL = """
found = {}
variants = [
    {}, {"n_kv_head": 2, "position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True},
    {"norm_order": "post", "logit_soft_cap": 5.0, "n_kv_head": 1},
    {"position": "alibi", "n_kv_head": 2},
]
for variant in variants:
    model = GPT(ModelConfig(n_layer=2, n_head=4, n_embd=32, context=16, vocab_size=61, **variant))
    objective, ids = Objective(model), torch.randint(61, (2, 16))
    def gradients(run):
        model.zero_grad()
        run(ids, ids).backward()
        return [p.grad for p in model.parameters()]
    whole = torch.compile(objective, backend="aot_eager", fullgraph=True, dynamic=False)
    found[str(variant)] = apart(gradients(whole), gradients(objective))
print(json.dumps(found))
"""

PARTS = """
model = GPT(ModelConfig(n_layer=5, n_head=2, n_embd=32, context=16, vocab_size=61, position=POSITION))
ids = torch.randint(61, (2, 16))
found = {}
for recompute in (False, True):
    objective = Objective(model, recompute=recompute)
    gradients = {}
    torch.compiler.reset()
    for what in ("nothing", "parts"):
        torch._dynamo.utils.counters.clear()
        objective.compile_as(what)
        model.zero_grad()
        objective(ids, ids).backward()
        gradients[what] = [p.grad for p in model.parameters()]
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found[f"{what} {recompute}"] = [apart(gradients[what], gradients["nothing"]), graphs]
    # Evaluations use the model, in any shape, and nothing is compiled for them.
    objective.compile_as("parts")
    torch._dynamo.utils.counters.clear()
    model(ids[:, :9])
    found[f"model {recompute}"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print(json.dumps(found))
"""


def execute(words):
    script, out = words
    with open(out, "w") as file, contextlib.redirect_stdout(file):  # noqa: PTH123
        exec(script, {})
    return 0


def run(script, tmp_path):
    """Run a script; return what it prints."""
    found = tmp_path / "found.json"
    process = Forked([HEAD + script, found], main=execute)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return json.loads(found.read_text())


def test_the_compiler_is_not_imported_by_those_who_do_not_compile():
    words = [sys.executable, "-c", "import sys, gptlab.actions.train; print('torch._dynamo' in sys.modules)"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.slow
def test_the_loss_is_one_graph_without_atomic_additions(tmp_path):
    for apart, atomic in run(LOSS, tmp_path):
        assert apart < 1e-5
        assert not atomic


@pytest.mark.slow
def test_the_whole_objective_is_one_graph(tmp_path):
    assert all(apart < 1e-5 for apart in run(MODEL, tmp_path).values())


@pytest.mark.slow
@pytest.mark.parametrize("position", ["learned", "alibi"])
def test_in_parts_a_block_is_compiled_once_for_all_layers(tmp_path, position):
    found = run(PARTS.replace("POSITION", repr(position)), tmp_path)
    for recompute in (False, True):
        assert found[f"nothing {recompute}"] == [0, 0]
        apart, graphs = found[f"parts {recompute}"]
        assert apart < 1e-5
        assert graphs == 2  # the block and the loss
        assert found[f"model {recompute}"] == 0
