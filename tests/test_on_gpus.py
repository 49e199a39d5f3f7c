"""What a run is on a GPU: that of a CPU within rounding, exact where that is promised, and within its memory."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from gptlab import loading as saved
from gptlab.draw import draw
from gptlab.eval import validation
from gptlab.eval.score import log_likelihoods
from gptlab.machine.memory import free_gpu_bytes, peak_bytes
from gptlab.model.autocast import autocast
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.loss import IGNORED, next_token_loss
from gptlab.model.unset import Unset
from gptlab.runs.metrics import read_rows
from gptlab.runs.tensor_file import in_memory
from gptlab.sample import generate
from gptlab.train import objective
from gptlab.train.optim import OPTIMIZERS, build_optimizer, load_optimizer_state, optimizer_state

DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("mps", marks=pytest.mark.mps)]
DEVICE = "cuda"
TOLERANCE = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 2e-2, "float16": 3e-3}


def rows(out, kind):
    return [row for row in read_rows(out / "metrics.jsonl") if row["kind"] == kind]


def losses(out):
    return [row["loss"] for row in rows(out, "step")]


def gptlab(*words):
    done = subprocess.run(
        [sys.executable, "-m", "gptlab", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def cpu_run(finished_run):
    return finished_run


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_run_learns_as_on_a_cpu(device, cpu_run, train, tmp_path, dtype):
    train(tmp_path / "run", {"train": {"device": device, "dtype": dtype}})
    # The updates amplify what rounding leaves; of the first loss there is no more than that.
    assert losses(tmp_path / "run")[0] == pytest.approx(losses(cpu_run)[0], rel=TOLERANCE[dtype])
    assert losses(tmp_path / "run") == pytest.approx(losses(cpu_run), rel=10 * TOLERANCE[dtype])
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["dtype"] == dtype
    assert (
        environment["attention_kernel"] in {"cuda": ("cudnn", "flash", "efficient"), "mps": ("math",)}[device]
    )


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_loss_and_its_gradients_with_an_odd_vocabulary(device, torch_settings, dtype, cap):
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    torch.manual_seed(0)
    x, weight = torch.randn(4, 300, 64), torch.randn(257, 64) * 0.1
    targets = torch.randint(257, (4, 300))
    targets[1, 100:] = IGNORED
    found = []
    for where in ("cpu", device):
        given = [part.to(where).requires_grad_() for part in (x, weight)]
        short = where != "cpu" and dtype in ("bfloat16", "float16")
        with torch.autocast(where, getattr(torch, dtype, None), enabled=short):
            total = next_token_loss(*given, targets.to(where), logit_soft_cap=cap)
        found.append([part.cpu() for part in (total, *torch.autograd.grad(total, given))])
    for true, mine in zip(*found, strict=True):
        assert (mine - true).norm() <= TOLERANCE[dtype] * true.norm()


@pytest.mark.gpu
def test_compiled_it_is_one_graph_without_a_word(tiny_recipe, tmp_path):
    flags = ["--train.device", DEVICE, "--train.compile", "True"]
    said = gptlab("train", tiny_recipe, "--out", tmp_path / "fast", *flags)
    assert "torch.compile fails" not in said
    gptlab("train", tiny_recipe, "--out", tmp_path / "plain", "--train.device", DEVICE)
    assert losses(tmp_path / "fast") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_deterministic_runs_are_equal_bit_for_bit(tiny_recipe, tmp_path, compiled):
    flags = ["--train.device", DEVICE, "--train.deterministic", "True", "--train.compile", compiled]
    for name in ("one", "two"):
        gptlab("train", tiny_recipe, "--out", tmp_path / name, *flags, "--train.dtype", "bfloat16")
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert rows(tmp_path / "one", "val") == rows(tmp_path / "two", "val")


def test_the_scale_of_float16_survives_a_resume(device, train, tmp_path):
    exact = device == "cuda"  # Apple's GPU has not all deterministic kernels
    flags = {"train": {"device": device, "dtype": "float16", "deterministic": exact, "save_every_steps": 4}}
    train(tmp_path / "whole", flags)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for folder in ("step_00000008", "step_00000012"):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / folder)
    train(tmp_path / "cut", flags)
    states = [
        json.loads((tmp_path / name / "checkpoints" / "step_00000012" / "state.json").read_text())
        for name in ("whole", "cut")
    ]
    assert states[0]["scaler"] == states[1]["scaler"]
    assert states[0]["scaler"]["scale"] > 1
    assert losses(tmp_path / "cut") == pytest.approx(
        losses(tmp_path / "whole"), rel=0 if exact else 1e-3, abs=0
    )


def test_the_guard_leaves_out_what_is_not_finite(device, train, tmp_path, monkeypatch):
    whole, made = objective.next_token_loss, []

    def once(*given, **options):
        made.append(1)
        return whole(*given, **options) * (float("nan") if len(made) == 3 else 1)

    monkeypatch.setattr(objective, "next_token_loss", once)
    train(tmp_path / "run", {"train": {"device": device, "micro_batch": 8}})
    (skipped,) = (row for row in rows(tmp_path / "run", "event") if row["event"] == "skip")
    assert skipped["step"] == 3
    assert rows(tmp_path / "run", "val")[-1]["loss"] < rows(tmp_path / "run", "val")[0]["loss"]


def test_evaluations_are_those_of_a_cpu(device, finished_run, tiny_data, tmp_path):
    found = {}
    for where in ("cpu", device):
        file = tmp_path / f"{where}.json"
        for task, limit in (("continuation", 40), ("loss", 4096)):
            words = ["--task", task, "--data", tiny_data, "--limit", limit, "--device", where]
            gptlab("eval", finished_run, *words, "--json", file)
            found[where, task] = json.loads(file.read_text())
    for name in ("acc", "acc_norm", "n"):
        assert found[device, "continuation"][name] == found["cpu", "continuation"][name]
    assert found[device, "loss"]["loss"] == pytest.approx(found["cpu", "loss"]["loss"], abs=1e-3)


def test_texts_are_written(device, finished_run):
    model, _ = saved.load(str(finished_run), "cpu")
    exact = generate(model, [1, 2, 3], max_tokens=20, temperature=0)
    model.to(device)
    assert torch.equal(generate(model, [1, 2, 3], max_tokens=20, temperature=0).cpu(), exact)
    drawn = [
        generate(model, [1, 2, 3], max_tokens=9, samples=3, seed=1, top_k=50, top_p=0.9) for _ in range(2)
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("groups", [4, 2])
def test_log_likelihoods_with_shared_contexts_are_those_of_a_cpu(device, groups):
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": groups, "n_embd": 64, "context": 64, "vocab_size": 97}
    model = GPT(ModelConfig(**shape)).eval()
    before = list(range(30))
    pairs = [(before, [n, n + 1, n + 2]) for n in range(0, 90, 7)] + [([1], [2, 3])]
    found = [
        [score.log_likelihood for score in log_likelihoods(model.to(where), pairs, context=64, device=where)]
        for where in ("cpu", device)
    ]
    assert found[1] == pytest.approx(found[0], abs=1e-4)


def test_a_run_is_exported(device, train, tmp_path):
    pytest.importorskip("transformers")
    train(tmp_path / "run", {"train": {"device": device, "dtype": "bfloat16"}})
    said = gptlab("export", tmp_path / "run", tmp_path / "hf", "--verify")
    assert "differ" in said or "equal" in said or "same" in said
    ours, _ = saved.load(str(tmp_path / "run"), "cpu")
    theirs, _ = saved.load(str(tmp_path / "hf"), "cpu")
    ids = torch.arange(20)[None]
    torch.testing.assert_close(theirs(ids), ours(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_the_micro_batch_is_what_memory_holds(tiny_recipe, tmp_path):
    """A batch that cannot be held at once: the first update is made, and nothing runs out of memory."""
    shape = ["--model.context", 512, "--model.n-embd", 512, "--model.n-layer", 8, "--model.vocab-size", 50257]
    flags = ["--train.device", DEVICE, "--train.batch-tokens", 512 * 512, "--train.steps", 2]
    compiled = ["--train.compile", "True", "--eval.tasks"]
    said = gptlab("train", tiny_recipe, "--out", tmp_path / "run", *shape, *flags, *compiled)
    assert len(losses(tmp_path / "run")) == 2
    assert said.count("out of memory") <= 1, said


@pytest.mark.gpu
def test_memory_is_measured():
    device = torch.device(DEVICE)
    free = free_gpu_bytes(device)
    kept = []
    work = lambda size: kept.append(torch.empty(size, dtype=torch.uint8, device=device))  # noqa: E731
    assert 2**28 <= peak_bytes(device, work, 2**28) < 2**28 + 2**22
    assert free_gpu_bytes(device) <= free - 2**27


class Mac(TorchFunctionMode):
    """Lets torch's tensors without numbers be on Apple's GPU here, and refuses what that cannot hold.

    What asks for the device itself, as indexing does, is done as on a CPU; there is no backward pass.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        try:
            result = func(*args, **kwargs)
        except RuntimeError as error:
            if "not linked with support for mps" not in str(error):
                raise
            args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), (args, kwargs))
            result = tree_map_only(torch.Tensor, lambda tensor: tensor.to("mps:0"), func(*args, **kwargs))
        for part in tree_leaves(result):
            if isinstance(part, torch.Tensor) and part.device.type == "mps":
                assert part.dtype != torch.float64, func
        return result


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_no_float64_reaches_apples_gpu(monkeypatch, optimizer):
    """Torch's tensors without numbers stand in for a Mac's; they have no backward pass."""
    config = ModelConfig(n_layer=1, n_head=4, n_kv_head=2, n_embd=32, context=16, vocab_size=97)
    with FakeTensorMode(), torch.no_grad(), Mac():
        with torch.device("mps:0"), Unset():
            model = GPT(config).requires_grad_(False)
        ids = torch.zeros(2, 16, dtype=torch.long).to("mps:0")
        with autocast("bfloat16", torch.device("mps:0")):
            hidden = model.hidden_states(ids)
            monkeypatch.setattr(torch, "is_grad_enabled", lambda: True)  # the loss makes its own gradients
            loss = next_token_loss(hidden, model.head_weight_VD, ids)
            monkeypatch.undo()
        assert loss.dtype == torch.float32
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        made = build_optimizer(model, OPTIMIZERS[optimizer].config())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        made.step()
        parts = dict(model.named_parameters())
        state = optimizer_state(made, parts)
        load_optimizer_state(made, in_memory({name: tensor.cpu() for name, tensor in state.items()}), parts)
        made.step()
        logits = model(ids)[:, -1]
        draw(logits, temperature=1.0, top_k=9, top_p=0.9, generator=torch.Generator())
        probable = torch.zeros(32).to("mps:0")
        monkeypatch.setattr(validation, "predictions", lambda *what: (probable, probable))
        rows = [(torch.zeros(16, dtype=torch.long), torch.zeros(16, dtype=torch.long))] * 2
        with pytest.raises(DataDependentOutputException):  # the numbers themselves, in the end
            validation._nats(model, "mps:0", rows)
