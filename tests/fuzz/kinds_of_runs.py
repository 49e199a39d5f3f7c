"""Run folders: recipes, metrics, checkpoints; what is whole, how it is read, and what holds of the result."""

import hashlib
import json
from pathlib import Path
from typing import Any

from kind import Kind
from kinds_of_data import LINES, a_tokenizer

from gptlab.errors import GptlabError


def a_log(folder: Path) -> None:
    row: dict[str, Any]
    rows: list[dict[str, Any]] = []
    for step in range(12):
        row = {
            "kind": "step",
            "step": step,
            "tokens": 64 * step,
            "loss": 5 - step / 9,
            "grad_norm": 1.0,
            "lr": 1e-3,
        }
        rows.append({**row, "step_s": 0.1, "tokens_per_s": 640.0, "mfu": None})
        if step % 4 == 0:
            rows.append({"kind": "val", "step": step, "loss": 5.0, "bits_per_byte": 1.8, "tokens": 64 * step})
            score = {"task": "hellaswag", "protocol": "harness", "shots": 0, "acc": 0.25, "stderr": 0.1}
            rows.append({"kind": "eval", "step": step, **score, "acc_norm": 0.3, "stderr_norm": 0.1, "n": 20})
            rows.append({"kind": "sample", "step": step, "prompt": "A", "text": " text"})
    rows.insert(30, {"kind": "event", "step": 8, "event": "resume"})
    rows.append({"kind": "event", "step": 10, "event": "skip", "samples": [1, 2]})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "environment.json").write_text(
        json.dumps({"device": "cpu", "parameters": 1000, "processes": 1})
    )
    a_recipe(folder)


def read_log(folder: Path) -> None:
    """A row has a kind and a step, JSON holds what is reported, and the log can be gone on with."""
    from gptlab.report import runs as report
    from gptlab.runs.metrics import MetricsLog, read_rows

    path = folder / "metrics.jsonl"
    rows = read_rows(path)
    assert all(isinstance(row["kind"], str) and isinstance(row["step"], int) for row in rows)
    runs = report.read_runs([folder])
    json.dumps(report.facts(runs[0], runs[0]), default=str)
    report.notes(runs, [report.facts(runs[0], runs[0])])
    report.loss_chart(runs)
    report.score_charts(runs)
    report.rate_charts(runs)
    with MetricsLog(path) as log:
        log.write("step", step=12, loss=1.0)
    again = read_rows(path)
    assert again[-1] == {"kind": "step", "step": 12, "loss": 1.0} or len(again) == len(rows)


def a_reference(folder: Path) -> None:
    a_log(folder)
    row = {"model": "gpt2", "task": "loss", "loss": 3.3, "bits_per_byte": 1.0, "items_sha256": "0" * 64}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, "kind": "val", "step": 12}) + "\n")
    (folder / "reference.json").write_text(json.dumps({"results": [row, {"task": "hellaswag"}]}))


def read_reference(folder: Path) -> None:
    """A loss that is taken can be drawn."""
    from gptlab.report.chart import Chart
    from gptlab.report.interactive import payload
    from gptlab.report.reference import read_references
    from gptlab.runs.history import read_runs

    found = read_references(folder / "reference.json", read_runs([folder]))
    assert found
    json.loads(payload(Chart("loss", "", "", [], found)), parse_constant=int)


def a_recipe(folder: Path) -> None:
    from gptlab import recipe

    (folder / "config.toml").write_text(recipe.to_toml(recipe.RunConfig()))
    (folder / "mixture.toml").write_text(
        '[[data.train]]\npath = "a"\nweight = 0.5\n\n[[data.train]]\npath = "b"\nweight = 2.0\n\n'
        '[model]\nsize = "tiny"\nn_kv_head = "none"\n\n[schedule]\nname = "wsd"\n'
    )


def read_recipe(folder: Path) -> None:
    """What is taken can be written down and read again."""
    from gptlab import recipe

    config = recipe.load([folder / "config.toml", folder / "mixture.toml"])
    written = folder / "again.toml"
    written.write_text(recipe.to_toml(config))
    assert recipe.load([written]) == config


def a_run(folder: Path) -> None:
    from dataclasses import asdict

    import torch

    from gptlab.data.load_tokenizer import load_tokenizer
    from gptlab.model.gpt import GPT, ModelConfig
    from gptlab.runs import checkpoint

    tokenizer = load_tokenizer("bytes")
    config = ModelConfig(n_layer=1, n_head=2, n_embd=8, context=16, vocab_size=tokenizer.vocab_size)
    a_tokenizer(folder)
    files = {"tokenizer.json": (folder / "tokenizer.json").read_bytes()}
    for step in (10, 20):
        model = GPT(config).state_dict()
        optimizer = {f"{name}/exp_avg": torch.zeros_like(tensor) for name, tensor in model.items()}
        state = {
            "version": 1,
            "step": step,
            "tokens": 64 * step,
            "sample": 4 * step,
            "skip": [],
            "best": None,
        }
        state |= {"model": asdict(config), "tokenizer": {"name": tokenizer.name, "hash": tokenizer.hash}}
        checkpoint.save(folder, state, model=model, optimizer=optimizer, files=files if step == 10 else {})
    checkpoint.point(folder / "best", checkpoint.folder_of(folder, 20))


def read_run(folder: Path) -> None:
    """A checkpoint that is taken has its tensors, and its model gives a logit for each id."""
    import gptlab
    from gptlab.runs import checkpoint

    told: list[str] = []
    problems: list[GptlabError] = []
    try:
        found = checkpoint.newest(folder, told.append)
        assert all("\n" not in line for line in told)
        assert found is not None
        assert found.folder.parent == folder / "checkpoints"
        found.model()
        for part in found.tensors():
            for stored in part.values():
                stored.read()
        if found.state["step"] == 20 and checkpoint.pointed(folder / "best") != found.folder:
            gptlab.load(found.folder, "cpu")
    except GptlabError as error:
        problems.append(error)
    try_model(folder)
    if problems:
        raise problems[0]


def try_model(folder: Path) -> None:
    import torch

    import gptlab

    model, tokenizer = gptlab.load(folder, "cpu")
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2, 3]]))
    assert logits.shape[:2] == (1, 3)
    assert logits.shape[2] >= tokenizer.vocab_size


def mend_checkpoints(folder: Path) -> None:
    for path in folder.glob("**/checkpoints/*/state.json"):
        try:
            state = json.loads(path.read_bytes())
            for name in ("model.safetensors", "optimizer.safetensors"):
                state["sha256"][name] = hashlib.sha256((path.parent / name).read_bytes()).hexdigest()
            del state["state_sha256"]  # as before it was there
        except Exception:  # the state itself was broken
            continue
        path.write_text(json.dumps(state))


def a_started_run(folder: Path) -> None:
    from gptlab.data.prepare.prepare import prepare

    (folder / "source.txt").write_text("\n".join(LINES))
    prepare(folder / "source.txt", folder / "data", tokenizer="bytes", val_tokens=200, workers=1)
    train(folder, steps=2)


def train(folder: Path, steps: int) -> dict[str, Any]:
    from gptlab.actions import train as run

    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder))
    return run.train([folder / "recipe.toml"], folder / "run", {"train": {"steps": steps}})


RECIPE = """
[model]
n_layer = 1
n_head = 2
n_embd = 8
context = 16
position = "rope"
[data]
path = "{folder}/data"
[train]
device = "cpu"
dtype = "float32"
batch_tokens = 64
steps = 2
save_every_steps = 1
[eval]
tasks = []
"""


def go_on(folder: Path) -> None:
    """What goes on gets to its end, and counts its steps once."""
    from gptlab.runs.metrics import read_rows

    result = train(folder, steps=3)
    assert (result["status"], result["step"], result["tokens"]) == ("finished", 3, 3 * 64)
    steps = [row["step"] for row in read_rows(folder / "run" / "metrics.jsonl") if row["kind"] == "step"]
    assert sorted(set(steps)) == sorted(steps)


def export_run(folder: Path) -> None:
    """The card says what the files around the model say, or the export says what is wrong with them."""
    from gptlab.actions.export import export_folder

    export_folder(folder / "run", folder / "out", verify=False)
    assert (folder / "out" / "README.md").read_text(encoding="utf-8")


RUNS = {
    "metrics": Kind(
        a_log,
        {"metrics.jsonl": "lines", "environment.json": "json", "config.toml": "toml"},
        read_log,
        ("report", "{folder}", "--out", "{folder}/report"),
        writes=True,
    ),
    "reference": Kind(
        a_reference,
        {"reference.json": "json"},
        read_reference,
        ("report", "{folder}", "--reference", "{folder}/reference.json", "--out", "{folder}/report"),
        writes=True,
    ),
    "recipe": Kind(
        a_recipe, {"*.toml": "toml"}, read_recipe, ("config", "{folder}/config.toml"), writes=True
    ),
    "checkpoint": Kind(
        a_run,
        {
            "checkpoints/*/state.json": "json",
            "checkpoints/*/*.safetensors": "safetensors",
            "checkpoints/*/tokenizer.json": "json",
            "latest": "bytes",
            "best": "bytes",
        },
        read_run,
        ("sample", "{folder}", "--prompt", "A", "--max-tokens", "2"),
        mend=mend_checkpoints,
    ),
    "resumed run": Kind(
        a_started_run,
        {
            "run/checkpoints/*/state.json": "json",
            "run/checkpoints/*/*.safetensors": "safetensors",
            "run/metrics.jsonl": "lines",
            "run/latest": "bytes",
            "run/best": "bytes",
        },
        go_on,
        writes=True,
        mend=mend_checkpoints,
    ),
    "exported run": Kind(
        a_started_run,
        {"run/metrics.jsonl": "lines", "run/environment.json": "json", "run/config.toml": "toml"},
        export_run,
        writes=True,
    ),
}
