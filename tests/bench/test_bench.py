import itertools
import json
from dataclasses import replace

import pytest
import torch

from gptlab import recipe
from gptlab.bench import bench as measuring
from gptlab.bench import ladder, rig
from gptlab.bench.printed import lines
from gptlab.bench.products import products_of
from gptlab.bench.rig import Rig
from gptlab.cli import main
from gptlab.model import loss
from gptlab.model.gpt import GPT
from gptlab.model.size import measure

KEYS = "device tokens_per_s step_s mfu matmul_share peak_memory_bytes first_step_s parts"
PARTS = ["attention", "mlp", "head and loss", "optimizer", "data", "rest"]


@pytest.fixture
def config(tiny_recipe):
    return recipe.load([tiny_recipe], {})


def test_the_facts_of_a_step(tiny_recipe, tmp_path, capsys):
    files = {name: tmp_path / "new" / name for name in ("facts.json", "trace.json", "step.png")}
    found, trace, picture = files.values()
    words = ["--steps", "3", "--trace", str(trace), "--picture", str(picture), "--json", str(found)]
    assert main(["bench", str(tiny_recipe), *words]) == 0
    facts = json.loads(found.read_text())
    assert set(KEYS.split()) <= set(facts)
    assert [*facts["parts"]] == PARTS
    assert sum(facts["parts"].values()) == pytest.approx(facts["step_s"])
    assert facts["tokens_per_s"] * facts["step_s"] == pytest.approx(facts["tokens"]) == pytest.approx(256)
    low, high = facts["step_range_s"]
    assert 0 < low <= facts["step_s"] <= high < facts["first_step_s"]
    assert 0 < facts["matmul_share"] < 1.5
    assert facts["mfu"] is None
    assert facts["peak_memory_bytes"] > 1e8
    assert not facts["synthetic"]
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in PARTS)
    assert "MFU unknown" in said
    assert any("attention" in event["name"] for event in json.loads(trace.read_text())["traceEvents"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_data_tokens_are_random(config):
    config = replace(config, data=replace(config.data, path="nowhere"))
    facts = measuring.bench(config, steps=1)
    assert facts["synthetic"]
    assert any("random tokens" in line for line in lines(facts))
    batches, synthetic = rig._batches(config)
    (ids, targets), (again, _) = batches.batch(4, 2), batches.batch(4, 2)
    assert synthetic
    assert torch.equal(ids, again)
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    assert 0 <= ids.min() <= ids.max() < config.model.vocab_size


def test_a_long_step_is_computed_from_some_of_its_passes(config, monkeypatch):
    config = replace(config, train=replace(config.train, batch_tokens=256 * 32, micro_batch=8))
    with Rig(config) as whole:
        assert (whole.passes, whole.updater.micro_batches.batch_sequences) == (32, 256)
        seconds = min(whole.step().seconds for _ in range(5))
    monkeypatch.setattr(rig, "ROUND_S", 0.0)
    with Rig(config) as cut:
        assert cut.updater.micro_batches.batch_sequences == 8
        assert seconds / 3 < min(cut.step().seconds for _ in range(5)) < 3 * seconds


def test_steps_are_whole_and_leave_the_weights_alone(config):
    with Rig(config) as rig:
        at = rig.updater.state
        before = [parameter.clone() for parameter in at.model.parameters()]
        means = [at.optimizer.state[parameter]["exp_avg"].clone() for parameter in at.model.parameters()]
        rig.step()
        for parameter, weights, mean in zip(at.model.parameters(), before, means, strict=True):
            assert torch.equal(parameter, weights)
            assert not torch.equal(at.optimizer.state[parameter]["exp_avg"], mean)


def test_the_next_rig_does_not_run_the_graphs_of_this_one(config, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append(True))
    with Rig(config):
        pass
    assert not calls
    monkeypatch.setattr(Rig, "compiled", True)
    with Rig(config):
        assert not calls
    assert calls


def test_products_are_those_of_the_size(config):
    config = replace(
        config,
        model=replace(config.model, mlp="swiglu", n_kv_head=2),
        train=replace(config.train, batch_tokens=4096),
    )
    with Rig(config) as made:
        flops = sum(times * product.flops for product, times in products_of(made).items())
        attention = 12 * config.model.n_layer * config.model.n_embd * config.model.context
        assert flops == (measure(config.model).flops_per_token - attention) * 4096


def test_the_ladder_says_what_it_cannot_run(tiny_recipe, tmp_path, capsys):
    found = tmp_path / "facts.json"
    assert main(["bench", str(tiny_recipe), "--steps", "1", "--ladder", "--json", str(found)]) == 0
    rows = {row["name"]: row for row in json.loads(found.read_text())["rows"]}
    assert [*rows] == [rung.name for rung in ladder.LADDER]
    assert rows["TF32"]["why"] == "CUDA only"
    assert rows["float32"]["gain"] is None
    measured = [row for row in rows.values() if row["why"] is None]
    for below, row in itertools.pairwise(measured):
        assert row["gain"] == pytest.approx(below["step_s"] / row["step_s"])
    said = capsys.readouterr().out
    assert "TF32" in said
    assert "not measured: CUDA only" in said


def test_rungs_are_one_change_each(config):
    device = torch.device("cuda")
    rungs = [*ladder.climb(config, device)]
    for (below, slower), (rung, faster) in itertools.pairwise(rungs):
        refused = rung.refusal(device) is not None
        assert not refused or rung.name == "bfloat16"
        changed = recipe.differences(slower, faster)
        assert len(changed) + (rung.padded_head != below.padded_head) == (not refused)
    assert rungs[-1][0].padded_head


def test_the_head_is_padded_as_asked(config, monkeypatch):
    monkeypatch.setitem(loss.HEAD_MULTIPLE, "cpu", 64)
    torch.manual_seed(0)
    model = GPT(config.model)
    x, targets = torch.randn(2, 8, config.model.n_embd), torch.randint(config.model.vocab_size, (2, 8))
    found = []
    for padded in (True, False):
        with ladder.head(padded=padded):
            assert bool(loss.HEAD_MULTIPLE) == padded
            found.append(loss.next_token_loss(x, model.head_weight_VD, targets))
    torch.testing.assert_close(*found)
    assert loss.HEAD_MULTIPLE["cpu"] == 64


def test_refusals(tiny_recipe, tmp_path, capsys):
    for words, said in (
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--trace", str(tmp_path)], "is a folder"),
        (["--picture", str(tmp_path)], "is a folder"),
        (["--model.vocab-size", "10"], "model.vocab_size = 10: the tokenizer of"),
    ):
        assert main(["bench", str(tiny_recipe), *words]) == 1
        assert said in capsys.readouterr().err
