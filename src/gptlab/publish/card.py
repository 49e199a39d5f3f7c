"""README.md of an export: what is known about a model, under a YAML head for the Hugging Face hub.

Everything comes from the run's files. What they do not say is called unknown or left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gptlab import __version__
from gptlab.amounts import amount
from gptlab.data.tokenizer import Tokenizer
from gptlab.eval.chance import CHANCE
from gptlab.formats.huggingface.write import CARD, CURVE
from gptlab.model.gpt import ModelConfig
from gptlab.model.size import measure
from gptlab.publish.bill import estimate_bill
from gptlab.publish.origin import DataSet, Origin, last_part
from gptlab.report.charts import loss_chart
from gptlab.report.page import DASH
from gptlab.report.picture import draw
from gptlab.report.results import ANSWER_BITS, CALLED, doubt, results, score, told_items
from gptlab.runs.history import as_number, training_hours
from gptlab.runs.metrics import ACCURACIES, Row

UNKNOWN = "unknown"
HELLASWAG = "Rowan/hellaswag"  # its name on the hub

Rows = Iterable[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Card:
    """The facts of a card."""

    origin: Origin
    model: ModelConfig
    tokenizer: Tokenizer
    class_name: str
    """The class of transformers that loads it."""
    remote_code: bool
    """Whether that class is in the folder."""
    address: str
    """The argument of from_pretrained: the name on the hub, or the folder's."""
    licence: str | None = None
    """The hub's identifier of the licence; None if nobody has stated one."""

    @property
    def title(self) -> str:
        """The last part of the address."""
        return self.address.rpartition("/")[2]


def card_files(card: Card) -> dict[str, bytes]:
    """Return the card, and the picture of the loss if there is one, by file name."""
    files: dict[str, bytes] = {}
    if card.origin.steps and card.origin.run is not None:
        files[CURVE] = draw(loss_chart([card.origin.run])).light
    sections = {
        "How to load it": _loading(card),
        "Architecture": _table(_architecture(card)),
        "Data": _data(card.origin),
        "Training": _training(card.origin, pictured=CURVE in files),
        "Scores": _scores(card.origin),
        "Time, energy and cost": _cost(card.origin),
        "Licence": f"{card.licence}\n" if card.licence else "Not stated.\n",
    }
    text = "\n".join(f"## {name}\n\n{body}" for name, body in sections.items() if body)
    head = f"---\n{_head(card)}\n---\n\n# {card.title}\n\n{_lead(card)}\n"
    return {CARD: f"{head}\n{text}".encode(), **files}


def _head(card: Card) -> str:
    from huggingface_hub import ModelCardData

    data = card.origin.data or ()
    names = sorted({each.hub_name for each in data if each.hub_name is not None})
    results = [result for row in _official(card.origin) for result in _index(row)]
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=card.licence,
        datasets=names or None,
        tags=["gptlab"],
        model_name=card.title if results else None,
        eval_results=results or None,
    )
    return head.to_yaml()


def _official(at: Origin) -> list[Row]:
    """Return the scores on HellaSwag's own validation items, from the unchanged file only."""
    rows = [row for row in at.rows("eval") if row["task"] == "hellaswag"]
    return [row for row in rows if row.get("official") and row.get("items_sha256")]


def _index(row: Row) -> list[Any]:
    """List a score for the hub's index, with everything that a comparison needs."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=HELLASWAG,
            dataset_name=f"HellaSwag, {row['protocol']} protocol, {row['shots']}-shot, {row['n']:,} items",
            dataset_split="validation",
            dataset_args={key: row[key] for key in ("protocol", "shots", "n", "items_sha256")},
            metric_type=name,
            metric_value=round(row[name], 6),
            metric_args={"stderr": round(row[error], 6)} if row.get(error) is not None else None,
        )
        for name, error in ACCURACIES.items()
        if row.get(name) is not None
    ]


def _lead(card: Card) -> str:
    parameters, at = amount(measure(card.model).parameters), card.origin
    made = at.state.get("imported")
    if made:
        told = (
            f"imported from {made['kind']} (`{last_part(made['from'])}`) by gptlab {__version__}; how it was "
        )
        return f"A language model of {parameters} parameters, {told}trained is unknown."
    if at.step is None:
        return (
            f"A language model of {parameters} parameters, written by gptlab {__version__} from a folder of "
            "weights; how it was trained is unknown."
        )
    start = at.run.config.get("train.init_from") if at.run is not None else None
    began = f"trained further from `{last_part(start)}`" if start else "trained"
    return (
        f"A language model of {parameters} parameters, {began} with gptlab on {amount(at.state['tokens'])} tokens. "
        "It continues text."
    )


def _loading(card: Card) -> str:
    trust = ", trust_remote_code=True" if card.remote_code else ""
    note = "The class is in this repository, in `modeling_gptlab.py`.\n\n" if card.remote_code else ""
    count = min(40, card.model.context // 2)
    return f"""{note}```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{card.address}")
model = AutoModelForCausalLM.from_pretrained("{card.address}"{trust})
ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
out = model.generate(ids, max_new_tokens={count}, do_sample=True, top_k=50)
print(tokenizer.decode(out[0]))
```
"""


def _architecture(card: Card) -> Rows:
    c, size = card.model, measure(card.model)
    bias = "with biases" if c.bias else "without biases"
    cap = f", logits capped at {c.logit_soft_cap:g}" if c.logit_soft_cap is not None else ""
    yield "class", f"`{card.class_name}`" + ("" if card.remote_code else " of transformers")
    yield "parameters", f"{size.parameters:,} ({size.non_embedding:,} without embeddings)"
    yield "layers, width", f"{c.n_layer}, {c.n_embd}"
    yield "query heads, key/value heads", f"{c.n_head}, {c.kv_heads}" + (", normalised" if c.qk_norm else "")
    yield "MLP", f"{c.mlp} of {c.mlp_width}, {bias}"
    yield "norm", f"{c.norm}, {'before each part' if c.norm_order == 'pre' else 'after each sum'}"
    yield "positions", f"{c.position}" + (f", base {c.rope_theta:g}" if c.position == "rope" else "")
    yield "context", f"{c.context:,} tokens"
    yield "vocabulary", f"{c.vocab_size:,} entries, tokenizer {card.tokenizer.name}"
    yield "head", ("tied to the embedding" if c.tie_embeddings else "of its own") + cap


def _data(at: Origin) -> str:
    if at.step is None:
        return ""
    if at.data is None:
        gone = ": the data that the run read has moved or changed" if at.run is not None else ""
        return f"Unknown{gone}.\n"
    return _table(*(_data_rows(each) for each in at.data))


def _data_rows(each: DataSet) -> Rows:
    summary = each.manifest.summary()
    hub = each.hub_name
    yield "source", f"[{hub}](https://huggingface.co/datasets/{hub})" if hub else f"`{each.source}`"
    yield "revision", f"`{each.manifest.revision}`"
    yield "share of the training samples", f"{each.share:.4g}"
    for split, name in (("train", "to train on"), ("val", "held out")):
        yield name, f"{summary[split]['tokens']:,} tokens of {summary[split]['documents']:,} documents"
    dropped = summary["dropped"]
    yield "exact copies", f"{dropped['documents']:,} documents left out" if dropped else "not looked for"


def _training(at: Origin, *, pictured: bool) -> str:
    if at.step is None:
        return ""
    parts = [_table(_progress(at))]
    if pictured:
        parts.append(f"![Training loss, faint and averaged, and validation loss as points]({CURVE})\n")
    if at.recipe is not None:
        parts.append(
            f"<details><summary>The recipe</summary>\n\n```toml\n{at.recipe.strip()}\n```\n\n</details>\n"
        )
    return "\n".join(parts)


def _progress(at: Origin) -> Rows:
    said = at.run.environment if at.run is not None else {}
    config = at.past.config if at.past is not None else {}
    planned = at.past.planned_steps if at.past is not None else None
    rate = at.past.highest_rate if at.past is not None else None
    yield "steps", f"{at.step:,}" + (f" of {planned:,}" if planned else "")
    yield "tokens", f"{at.state['tokens']:,}"
    for name, (key, form) in SETTINGS.items():
        if key in config:
            yield name, form.format(config[key])
        if key == "optim.name" and rate is not None:
            yield "highest learning rate", f"{rate:g}"
    if at.changes:
        yield "changed on the way", "; ".join(at.changes)
    if "dtype" in said:
        yield "number format", said["dtype"]
    for row in at.rows("val"):
        yield "validation loss", f"{as_number(row.get('loss')):.4f} nats per token"
        if row.get("bits_per_byte") is not None:
            yield "validation loss per byte", f"{row['bits_per_byte']:.4f} bits"
    commit = f", commit {said['git_commit']}" if said.get("git_commit") else ""
    yield "gptlab", f"{said['gptlab']}{commit}" if "gptlab" in said else UNKNOWN


def _scores(at: Origin) -> str:
    rows = at.rows("eval")
    if not rows:
        return "" if at.run is None else "None were measured at this checkpoint.\n"
    bits = any(ANSWER_BITS in results(row) for row in rows)
    others = any(_others(row) for row in rows)
    head = ["task", "protocol", "shots", "items", "chance, %", "accuracy, %", "normalised by length, %"]
    head += [CALLED[ANSWER_BITS]] * bits + ["other results"] * others
    lines = [head, ["---"] * len(head)]
    lines += [
        _score_cells(row) + [score(row, ANSWER_BITS)] * bits + [_other_results(row)] * others for row in rows
    ]
    body = "".join(_line(*cells) for cells in lines)
    return (
        f"{body}\nMeasured at this checkpoint, in training or later by `gptlab eval`; after \N{PLUS-MINUS SIGN} comes "
        "one standard error, from the draw of the items. Scores with another protocol, number of shots or set of items "
        "are not comparable with these. Above chance means that guessing scores as high less than once in twenty times "
        "(exact binomial test).\n"
        + "Bits per byte of the right answer are its negative log2-likelihood over its bytes of UTF-8; fewer are "
        "better.\n" * bits
    )


def _score_cells(row: Row) -> list[str]:
    return [
        row["task"],
        f"{row['protocol']} {row.get('lm_eval', '')}".strip(),
        f"{row['shots']}",
        f"{row['n']:,}, {told_items([row])}",
        f"{100 * CHANCE[row['task']]:.0f}" if row["task"] in CHANCE else UNKNOWN,
        *(", ".join(filter(None, (score(row, name), doubt(row, name)))) for name in ACCURACIES),
    ]


def _others(row: Row) -> list[str]:
    return [name for name in results(row) if name not in (*ACCURACIES, ANSWER_BITS)]


def _other_results(row: Row) -> str:
    return ", ".join(f"{name} {score(row, name)}" for name in _others(row)) or DASH


def _cost(at: Origin) -> str:
    if at.run is None or at.step is None:
        return ""
    hours, processes, device = training_hours(at.steps), at.processes, at.run.environment.get("device")
    rows = [("hardware", f"{processes or 'several'} x {device}" if device else UNKNOWN)]
    rows.append(("hours", UNKNOWN if hours is None else f"{hours:.2f} in steps, without evaluations"))
    found = estimate_bill(device, hours * processes) if device and hours and processes else None
    rows.append(("energy", f"about {found.kwh:.2g} kWh (estimated)" if found else UNKNOWN))
    rows.append(("cost", f"about {found.usd:.2g} US dollars (estimated)" if found else UNKNOWN))
    note = f"\nEstimated from the hours, assuming {found.assuming}.\n" if found else ""
    return _table(rows) + note


def _table(*groups: Rows) -> str:
    return "\n".join("| | |\n|---|---|\n" + "".join(_line(*cells) for cells in rows) for rows in groups)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


# Keys of the recipe that the table shows; the card holds the whole recipe below.
SETTINGS = {
    "tokens a step": ("train.batch_tokens", "{:,}"),
    "optimizer": ("optim.name", "{}"),
    "schedule": ("schedule.name", "{}"),
    "steps of warm-up": ("schedule.warmup_steps", "{:,}"),
}
