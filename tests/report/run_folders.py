"""Run folders as a training leaves them, written row by row, and a page as a browser would see it."""

import json
import math
import random
from html.parser import HTMLParser

BATCH = 4096
SAMPLE = "<script>alert('x')</script> & \"quotes\"\n\nnext <b>paragraph"

RECIPE = """
[model]
n_layer = 4
position = "{position}"
[data]
path = "{data}"
[train]
steps = {planned}
batch_tokens = {batch}
[optim]
betas = [0.9, 0.95]
"""


def step_row(step, batch=BATCH, speed=1e6, seed=0):
    noise = random.Random(f"{seed} {step}").gauss(0, 0.05)
    loss = 3 + 5 * math.exp(-step / 8) + noise
    row = {"kind": "step", "step": step, "tokens": step * batch, "loss": loss, "grad_norm": 0.5}
    return row | {"lr": 1e-3 * min(1, step / 5), "step_s": batch / speed, "tokens_per_s": speed, "mfu": 0.4}


def val_row(step, loss=None):
    loss = 3.1 + 5 * math.exp(-step / 8) if loss is None else loss
    return {"kind": "val", "step": step, "loss": loss, "bits_per_byte": loss / 3}


def eval_row(step, task="hellaswag", protocol="completion", shots=0, n=401, acc_norm=0.5):
    row = {"kind": "eval", "step": step, "task": task, "protocol": protocol, "shots": shots, "n": n}
    acc = acc_norm - 0.1
    errors = {
        "stderr": math.sqrt(acc * (1 - acc) / (n - 1)),
        "stderr_norm": math.sqrt(acc_norm * (1 - acc_norm) / (n - 1)),
    }
    return row | {"acc": acc, "acc_norm": acc_norm} | errors


def sample_row(step, text=SAMPLE, prompt="Once <upon>"):
    return {"kind": "sample", "step": step, "prompt": prompt, "text": text}


def event_row(event, step):
    return {"kind": "event", "event": event, "step": step}


def curve(steps=40, every=10, **of_step):
    rows = [val_row(0)]
    for step in range(1, steps + 1):
        rows.append(step_row(step, **of_step))
        if step % every == 0:
            rows.append(val_row(step))
    return rows


def write_run(
    folder, rows, *, parameters=1_000_000, data="data/a", planned=40, batch=BATCH, position="learned"
):
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    recipe = RECIPE.format(data=data, planned=planned, batch=batch, position=position)
    (folder / "config.toml").write_text(recipe)
    environment = {"gptlab": "0.1.0", "device": "Abacus", "parameters": parameters, "git_commit": None}
    environment["command"] = ["gptlab", "train", "my recipe.toml"]
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


class Page(HTMLParser):
    """What a browser would see: tags, what they load, where links lead, the cells of tables, the samples."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.links, self.tables, self.samples, self.words = [], [], [], [], [], []
        self.open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        found = [attrs[key] for key in ("src", "srcset", "href", "data", "action") if key in attrs]
        if tag == "a":
            self.links += found
        else:
            self.loads += found
        if tag not in ("img", "meta", "source"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif attrs.get("class") == "sample":
            self.samples.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and not {"td", "th"}.isdisjoint(self.open):
            self.tables[-1][-1][-1] += data
        elif (
            "div" in self.open and self.open[-1] in ("div", "b") and self.samples and "table" not in self.open
        ):
            self.samples[-1] += data
