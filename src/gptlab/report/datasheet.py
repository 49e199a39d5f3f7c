"""What `gptlab data inspect` found in a prepared folder, for a terminal and as a page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gptlab
from gptlab.data.manifest import Manifest
from gptlab.outputs import Record, fingerprint
from gptlab.report.chart import Chart, Curve
from gptlab.report.page import DASH, figure, heading, page, paragraph, samples, table
from gptlab.report.page_folder import INDEX, require_own_page, write
from gptlab.report.picture import draw

KIND = "data sheet"
BAR_WIDTH = 50
SHOWN_LETTERS = 300

Facts = dict[str, Any]

NUMBERS: dict[str, Callable[[Facts], str]] = {
    "documents": lambda split: f"{split['documents']:,}",
    "tokens": lambda split: f"{split['tokens']:,}",
    "shards": lambda split: f"{split['shards']:,}",
    "bytes of text": lambda split: f"{split['text_bytes']:,}",
    "bytes a token": lambda split: f"{split['bytes_per_token']:.3f}",
    "tokens a document, mean": lambda split: f"{split['lengths']['mean']:,.0f}",
    "5th percentile": lambda split: f"{split['lengths']['percentiles']['5']:,.0f}",
    "25th percentile": lambda split: f"{split['lengths']['percentiles']['25']:,.0f}",
    "median": lambda split: f"{split['lengths']['percentiles']['50']:,.0f}",
    "75th percentile": lambda split: f"{split['lengths']['percentiles']['75']:,.0f}",
    "95th percentile": lambda split: f"{split['lengths']['percentiles']['95']:,.0f}",
    "longest": lambda split: f"{split['lengths']['longest']:,}",
    "copies of an earlier document": lambda split: f"{split['copies']['documents']:,}",
    "tokens in these copies": lambda split: f"{split['copies']['tokens']:,}",
    "different tokens used": lambda split: f"{split['vocabulary_used']:,}",
}
"""What is told of a split; the share of the commonest tokens comes behind it."""


def _numbers(facts: Facts) -> list[list[str]]:
    splits: list[Facts] = list(facts["splits"].values())
    rows = [[name, *map(show, splits)] for name, show in NUMBERS.items()]
    for top in splits[0]["coverage"]:
        name = f"share of the {int(top):,} commonest" if int(top) > 1 else "share of the commonest token"
        rows.append([name, *(f"{split['coverage'][top]:.1%}" for split in splits)])
    return rows


def _lead(facts: Facts) -> str:
    return f"{facts['source']}, tokenizer {facts['tokenizer']} of {facts['vocab_size']:,} entries"


def _remarks(facts: Facts) -> list[str]:
    dropped, both = facts["dropped"], facts["held_out_in_train"]
    remarks = [f"Validation: {facts['validation']}."] if facts["validation"] else []
    if dropped:
        remarks.append(
            f"Left out when it was prepared: {dropped['documents']:,} copies of {dropped['tokens']:,} tokens."
        )
    if both:
        remarks.append(f"{both:,} held-out documents are in the training split too.")
    return remarks


def told(facts: Facts) -> str:
    """Write a data sheet for a terminal."""
    splits: dict[str, Facts] = facts["splits"]
    lines = [f"{facts['folder']}: {_lead(facts)}", *_remarks(facts), ""]
    for name, *cells in (["", *splits], *_numbers(facts)):
        lines.append(f"{name:<31}" + "".join(f"{cell:>16}" for cell in cells))
    for name, split in splits.items():
        common = ", ".join(f"{row['token']} {row['share']:.1%}" for row in split["commonest"])
        lines += ["", f"{name}: documents by length, from so many tokens to twice that"]
        lines += [*_bars(split["lengths"]), "", f"{name}: commonest tokens {common}"]
        for example in split["examples"]:
            text = " ".join(_text(example).split())
            lines += [
                "",
                f"{name}: {_place(example)}",
                f"  {text[:SHOWN_LETTERS]}" + "..." * (len(text) > SHOWN_LETTERS),
            ]
    return "\n".join(lines)


def _bars(lengths: Facts) -> list[str]:
    """Draw a histogram in letters, a line for each doubling of the length."""
    doubling = np.floor(np.log2(lengths["bin_edges"][:-1]) + 1e-9).astype(int)
    counts = np.bincount(doubling, weights=lengths["documents_by_bin"]).astype(int)
    first = int(np.flatnonzero(counts)[0])
    return [
        f"{2**power:>11,} {'#' * round(BAR_WIDTH * count / counts.max()):<{BAR_WIDTH}} {count:>12,}"
        for power, count in enumerate(counts.tolist())
        if power >= first
    ]


def _place(example: Facts) -> str:
    return f"document {example['document']:,}, {example['tokens']:,} tokens"


def _text(example: Facts) -> str:
    return example["beginning"] + (f"\n[...]\n{example['end']}" if example["end"] else "")


def lengths_chart(name: str, split: Facts) -> Chart:
    """Chart how long a split's documents are, and where its tokens lie."""
    lengths = split["lengths"]
    # From the ground and back to it: an empty bin at either end.
    edges = np.array([lengths["bin_edges"][0], *lengths["bin_edges"]])

    def shares(counts: Sequence[int]) -> Any:
        return 100 * np.array([0, *counts, 0]) / sum(counts)

    half = lengths["half_of_tokens_in_documents_from"]
    curves = [
        Curve(
            0,
            edges,
            shares(lengths["documents_by_bin"]),
            "bars",
            f"documents: half have at most {lengths['percentiles']['50']:,.0f} tokens",
        ),
        Curve(
            1,
            edges,
            shares(lengths["tokens_by_bin"]),
            "steps",
            f"tokens: half are in documents of at least {half:,}",
        ),
    ]
    caption = (
        f"Length of the {split['documents']:,} documents of the {name} split, in tokens, each with its "
        f"end-of-text; the bins grow with the length. Filled: share of the documents. Line: share of the "
        f"{split['tokens']:,} tokens that lie in documents of that length."
    )
    return Chart(
        f"lengths_{name}",
        "share of the split, %",
        caption,
        curves,
        low=0,
        x_label="tokens of a document",
        x_scale="log",
    )


def require_own_datasheet(folder: Path, out: Path) -> None:
    """Say before a folder is looked through that its page must not be written there.

    Raises:
        ConfigError: another data sheet is there, or files of somebody's.
    """
    require_own_page(out, KIND, _identity(folder))


def _identity(folder: Path) -> str:
    return fingerprint(KIND, folder.resolve().name, Manifest.load(folder).fingerprint)


def write_page(facts: Facts, out: Path) -> list[str]:
    """Write a data sheet as `index.html`, the pictures next to it as PNG, and return the files.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
    """
    require_own_datasheet(Path(facts["folder"]), out)
    splits: dict[str, Facts] = facts["splits"]
    files: dict[str, bytes] = {}
    figures: list[str] = []
    for name, split in splits.items():
        chart = lengths_chart(name, split)
        picture = draw(chart)
        files[f"{chart.name}.png"] = picture.light
        figures.append(heading(name) + figure(picture))
    sections = {
        "Numbers": table(["", *splits], [[name, *cells] for name, *cells in _numbers(facts)])
        + "".join(paragraph(remark, "note") for remark in _remarks(facts)),
        "Lengths": "".join(figures),
        "Commonest tokens": _commonest(splits),
        "Documents": "".join(
            paragraph(f"{name}, {_place(example)}", "faint")
            + samples([{"prompt": "", "text": _text(example)}])
            for name, split in splits.items()
            for example in split["examples"]
        ),
    }
    lead = f"{_lead(facts)}. Written by gptlab {gptlab.__version__} from the shards."
    title = Path(facts["folder"]).resolve().name
    record = Record(KIND, _identity(Path(facts["folder"])), title, files.keys())
    files[INDEX] = page(title, lead, sections, record).encode(errors="replace")
    write(out, files)
    return [str(out / name) for name in files]


def _commonest(splits: dict[str, Facts]) -> str:
    """Set the commonest tokens of each split side by side."""
    head = ["rank"]
    for name in splits:
        head += [name, f"share in\n{name}"]
    columns = [
        [(row["token"], f"{row['share']:.2%}") for row in split["commonest"]] for split in splits.values()
    ]
    rows = [
        [
            str(rank + 1),
            *(cell for column in columns for cell in (column[rank] if rank < len(column) else (DASH, DASH))),
        ]
        for rank in range(max(map(len, columns)))
    ]
    return table(head, rows)
