"""`gptlab demo`: the whole pipeline in minutes, on text that comes with Python.

Text to tokenizer to shards; two architectures trained on the same tokens; validation, a multiple-choice task,
samples; export to Hugging Face folders, with logits compared; a page and demo.json.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.actions.eval import Request, evaluate
from gptlab.actions.export import export_folder
from gptlab.actions.train import train
from gptlab.amounts import amount
from gptlab.data.manifest import Manifest
from gptlab.data.prepare.prepare import prepare
from gptlab.data.sources.table import find_source
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.errors import TrainError
from gptlab.eval import chance
from gptlab.loading import load
from gptlab.model.size import measure
from gptlab.outputs import require_empty
from gptlab.recipe import Raw, check, merge, to_toml
from gptlab.report.charts import loss_chart
from gptlab.report.page import figure, heading, page, paragraph, samples, table
from gptlab.report.page_folder import INDEX, write
from gptlab.report.picture import draw
from gptlab.report.score_charts import score_charts
from gptlab.runs.history import read_runs
from gptlab.sample import sample_text

SOURCE = "python-docs"
VOCABULARY = 2048
VAL_TOKENS = 60_000
PROMPT = "Return the"
CHANCE = chance.CHANCE["continuation"]

BASE: Raw = {
    "model": {"n_layer": 4, "n_head": 4, "n_embd": 192, "context": 128, "vocab_size": VOCABULARY},
    "train": {"steps": 160, "batch_tokens": 4096, "micro_batch": 32},
    "optim": {"lr": 3e-3},
    "schedule": {"warmup_steps": 20},
    "eval": {"every_steps": 80, "val_tokens": 16_384, "tasks": ["continuation"], "limit": 100},
}
MODELS: dict[str, Raw] = {
    "gpt2": {},
    "modern": {  # the parts and the rates of recipes/fast_cpu.toml
        "model": {
            **{"norm": "rmsnorm", "position": "rope", "mlp": "relu2", "bias": False},
            **{"qk_norm": True, "residual_init": "zero"},
        },
        "optim": {"name": "muon", "lr": 0.015, "embedding_lr": 2e-2},
        "schedule": {"name": "wsd", "warmup_steps": 10, "decay_fraction": 0.7, "final_fraction": 0.0},
    },
}
TITLES = {"gpt2": "GPT-2", "modern": "RoPE, RMSNorm, squared ReLU, QK-norm, Muon"}


def demo(out: Path) -> dict[str, Any]:
    """Run the pipeline into a folder, and return the contents of demo.json.

    Raises:
        ConfigError: the folder is not empty.
        TrainError: the run was interrupted.
    """
    require_empty(out)  # not even a demo is replaced, as somebody may have continued its runs
    out.mkdir(parents=True, exist_ok=True)
    data = _prepare(out)
    unigram = unigram_bits_per_byte(data)
    models = [_model(name, out, data, unigram) for name in MODELS]
    (out / "demo.json").write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")
    _write_page(out, data, models)
    print(f"\n{out / INDEX}: curves, table and samples")
    return {"models": models}


def _prepare(out: Path) -> Path:
    tokenizer, data = out / "tokenizer.json", out / "data"
    print(f"training a tokenizer of {VOCABULARY} entries on {SOURCE}", flush=True)
    train_tokenizer(find_source(SOURCE).documents(), VOCABULARY).save(str(tokenizer))
    prepare(SOURCE, data, tokenizer=tokenizer, val_tokens=VAL_TOKENS)
    return data


def _model(name: str, out: Path, data: Path, unigram: float) -> dict[str, Any]:
    """Train, score, sample and export one of MODELS."""
    began = time.monotonic()
    run = out / "runs" / name
    config = check(merge(merge(BASE, {"data": {"path": str(data)}}), MODELS[name]))
    recipe = out / f"{name}.toml"
    recipe.write_text(to_toml(config), encoding="utf-8")
    print(f"\n{TITLES[name]}", flush=True)
    result = train([recipe], run, {})
    if result["status"] != "finished":
        raise TrainError(f"{run}: interrupted; delete {out} and start the demo again")
    model, tokenizer = load(run)
    loss = evaluate([run], Request(task="loss", data=data))
    score = evaluate([run], Request(task="continuation", data=data))
    texts = sample_text(model, tokenizer, PROMPT, max_tokens=60, temperature=0.7, top_k=50, seed=1, samples=2)
    exported = export_folder(run, out / "export" / name)
    return {
        "name": TITLES[name],
        "run": str(run),
        "export": str(out / "export" / name),
        "parameters": measure(config.model).parameters,
        "tokens": result["tokens"],
        "bits_per_byte": loss["bits_per_byte"],
        "unigram_bits_per_byte": unigram,
        "below_unigram": unigram - loss["bits_per_byte"],
        "acc": score["acc"],
        "stderr": score["stderr"],
        "n": score["n"],
        "above_chance": score["acc"] - CHANCE,
        "export_max_diff": exported["max_diff"],
        "seconds": time.monotonic() - began,
        "texts": texts,
    }


def unigram_bits_per_byte(data: Path) -> float:
    """Return the bits per byte of held-out text for a model that knows only the tokens' frequencies."""
    manifest = Manifest.load(data)
    tokenizer = manifest.load_tokenizer(data)

    def counts(split: str) -> Any:
        shards = (manifest.read_shard(data, shard) for shard in manifest.split(split))
        return np.sum([np.bincount(tokens, minlength=tokenizer.vocab_size) for tokens in shards], axis=0)

    # One is added to every count, so that a token unseen in training has a finite cost.
    seen = counts("train") + 1
    held_out = counts("val")
    nats = -(held_out * np.log(seen / seen.sum())).sum()
    return float(nats / math.log(2) / (held_out * tokenizer.token_bytes).sum())


def _write_page(out: Path, data: Path, models: list[dict[str, Any]]) -> None:
    runs = read_runs([Path(model["run"]) for model in models])
    pictures = {chart.name: draw(chart) for chart in (loss_chart(runs), *score_charts(runs))}
    summary = Manifest.load(data).summary()
    rows = [
        [
            model["name"],
            amount(model["parameters"]),
            amount(model["tokens"]),
            f"{model['bits_per_byte']:.3f}",
            f"{model['below_unigram']:.3f}",
            f"{100 * model['acc']:.1f} \N{PLUS-MINUS SIGN} {100 * model['stderr']:.1f} (n = {model['n']})"
            + (f"\n{doubt}" if (doubt := chance.doubt("continuation", model["acc"], model["n"])) else ""),
            f"{100 * model['above_chance']:.1f}",
            f"{model['export_max_diff']:.1e}",
            f"{model['seconds']:.0f}",
        ]
        for model in models
    ]
    head = [
        "model",
        "parameters",
        "training\ntokens",
        "bits\na byte",
        "below\nunigram",
        "accuracy, %",
        "above chance,\npoints",
        "export: largest\nlogit difference",
        "seconds",
    ]
    unigram = models[0]["unigram_bits_per_byte"]
    explanation = (
        f"Bits a byte is the loss on the whole held-out split; a unigram model, which knows only how frequent each "
        f"token is, needs {unigram:.3f}. Accuracy is measured on a task made from the held-out split: which of four "
        f"contexts does a continuation follow (chance {100 * CHANCE:.0f} %), with its standard error. Both models saw "
        "the same tokens in the same order, with one seed each, so their difference says nothing about the "
        "architectures."
    )
    lead = (
        f"Two small language models, trained on {amount(summary['train']['tokens'])} tokens of Python's own "
        f"documentation ({summary['train']['documents']} documents), on this machine."
    )
    sections = {
        "Results": table(head, rows) + paragraph(explanation, "faint"),
        "Curves": "".join(figure(picture) for picture in pictures.values()),
        "Samples": "".join(
            heading(model["name"]) + samples({"prompt": PROMPT, "text": text} for text in model["texts"])
            for model in models
        ),
    }
    files = {f"{name}.png": picture.light for name, picture in pictures.items()}
    write(out, files | {INDEX: page("gptlab demo", lead, sections).encode()})
