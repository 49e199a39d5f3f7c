import json
from pathlib import Path
from typing import Any

import pytest
from small_files import rows, write

from gptlab import cli
from gptlab.actions.contamination import ITEM_TEXTS, contamination
from gptlab.data.prepare.prepare import prepare
from gptlab.errors import ConfigError, TaskError
from gptlab.eval import small

# Each sentence occurs once, so that only what is planted is found.
CORPUS = [
    " ".join(f"word{number * 31 + i}" for i in range(40)) + ("\n" if number % 2 else ".")
    for number in range(60)
]
BEFORE, BEHIND = CORPUS[7], CORPUS[8]


def item(number: int, label: int = 0) -> dict[str, Any]:
    """An item of HellaSwag that shares no word with the corpus."""
    context = " ".join(f"context{number}x{i}" for i in range(20))
    endings = [" ".join(f"ending{number}x{k}x{i}" for i in range(14)) for k in range(4)]
    return {
        "activity_label": "a",
        "ctx_a": context,
        "ctx_b": "",
        "ctx": context,
        "endings": endings,
        "label": label,
    }


def disguised(text: str) -> str:
    """A different text with the same words for the search."""
    return "\N{EM DASH}, ".join(word.upper().replace("O", "'o") for word in text.split()) + "!?"


@pytest.fixture
def items(tmp_path: Path) -> Path:
    rows = [item(number, label=number % 4) for number in range(8)]
    rows.append({**item(8), "ctx": "too short", "endings": ["a", "b", "c", "d"]})
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def planted(items: Path, tmp_path: Path) -> Path:
    """A corpus with item 2's context, item 3's right ending, item 4's wrong ending, and 12 words of item 5."""
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    texts = [
        f"{BEFORE} and {disguised(rows[2]['ctx'])} {BEHIND}",
        f"Before. {disguised(rows[3]['endings'][3])} {BEHIND}",
        disguised(f"{rows[4]['ctx']} {rows[4]['endings'][1]}"),
        " ".join(rows[5]["ctx"].split()[:12]),
        *[" ".join(rows[6]["ctx"].split()[:13]) + f" copy {number}" for number in range(20)],
    ]
    source = tmp_path / "corpus.jsonl"
    source.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in CORPUS[:30] + texts + CORPUS[30:])
    )
    return source


@pytest.fixture
def folder(planted: Path, tmp_path: Path) -> Path:
    facts = prepare(planted, tmp_path / "out", tokenizer="bytes", workers=1, val_tokens=1)
    assert facts["val"]["documents"] == 1, "the one that has to be, and no planted one"
    return tmp_path / "out"


def test_what_was_planted_is_found_and_nothing_else(folder: Path, items: Path):
    facts = contamination(folder, task="hellaswag", data=items, workers=1)
    rows = {row.pop("i"): row for row in facts["overlapping"]}
    flags = {
        i: [name for name in ("rare", "context", "right", "wrong") if row[name]] for i, row in rows.items()
    }
    assert flags == {
        2: ["rare", "context"],
        3: ["rare", "right"],
        4: ["rare", "context", "wrong"],
        6: ["context"],
    }
    # 20 words have 8 13-grams, 14 have 2, and 34 have 22.
    assert {i: row["found"] for i, row in rows.items()} == {2: 8, 3: 2, 4: 22, 6: 1}
    assert {row["ngrams"] for row in rows.values()} == {8 + 4 * 14}
    assert facts["items"] == 9
    assert facts["items_without_ngrams"] == 1
    assert facts["items_found"] == 4
    assert [facts[f"items_found_{name}"] for name in ("rare", "context", "right", "wrong")] == [3, 3, 1, 1]
    assert facts["ngrams"] == 8 * (8 + 4 * 14)
    assert facts["ngrams_found"] == 8 + 2 + 22 + 1


def test_the_worst_are_shown_with_where_they_stand(folder: Path, items: Path):
    facts = contamination(folder, task="hellaswag", data=items, workers=1)
    assert [row["i"] for row in facts["worst"]] == [4, 2, 3, 6]
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    whole, context, *_ = facts["worst"]
    assert whole["text"] == f"{rows[4]['ctx']} {rows[4]['endings'][1]}"
    assert (whole["words"], whole["shard"]) == (34, "train_000000.bin")
    assert context["text"] == rows[2]["ctx"]
    assert BEFORE.startswith(context["document"])


def test_documents_as_items(folder: Path, tmp_path: Path):
    looked_for = tmp_path / "looked_for.jsonl"
    texts = ["nothing of the kind " * 9, disguised(CORPUS[11]), "short", CORPUS[40]]
    looked_for.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
    facts = contamination(folder, items=looked_for, text_column="question", n=8, workers=1)
    assert [(row["i"], row["found"]) for row in facts["overlapping"]] == [(1, 33), (3, 33)]
    assert facts["items_without_ngrams"] == 1


FROM_A_FILE = {"hellaswag": True, "continuation": False, **dict.fromkeys(small.SMALL, True)}


@pytest.mark.parametrize("task", ITEM_TEXTS)
def test_every_task(task: str, tiny_data: Path, items: Path, tmp_path: Path):
    """The tiny corpus has few words in few orders, so held-out text is bound to occur in training."""
    assert task in FROM_A_FILE, (
        f"say in FROM_A_FILE whether {task} has items of its own, not the folder's text"
    )
    data = items if FROM_A_FILE[task] else None
    if task in small.SMALL:
        # Words that the tiny corpus lacks.
        text = json.dumps(rows(task)).replace("old", "ancient").replace("the", "thy").replace("down", "up")
        data = write(tmp_path / "items.jsonl", json.loads(text))
    facts = contamination(tiny_data, task=task, data=data, n=5, workers=1)
    assert facts["items"] > 5
    assert (facts["items_found"] == 0) == FROM_A_FILE[task]


def test_the_command(folder: Path, items: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["data", "contamination", str(folder), "--task", "hellaswag", "--data", str(items)]
    assert cli.main([*words, "--workers", "2", "--json", str(tmp_path / "facts.json")]) == 0
    out = capsys.readouterr().out
    assert "items with a 13-gram found                           4   44.44%" in out
    assert "item 4: 22 of 64 found; 34 words in a row in train_000000.bin, document at token " in out
    assert out.endswith("A shared n-gram is a reason to look, not proof.\n")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts == contamination(folder, task="hellaswag", data=items, workers=1)


def test_the_real_sample_is_not_in_the_real_corpus(shared, tmp_path: Path):
    shared("tiktoken_cache")
    source = shared("data/corpus") / "data" / "train-00000-of-00008.parquet"
    prepare(source, tmp_path / "out", workers=1, max_tokens=300_000)
    sample = shared("data/hellaswag_val_sample.jsonl")
    facts = contamination(tmp_path / "out", task="hellaswag", data=sample, workers=1)
    assert (facts["items"], facts["items_without_ngrams"], facts["items_found"]) == (1152, 0, 0)


def test_refusals(folder: Path, items: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="--task and --items: give exactly one"):
        contamination(folder)
    with pytest.raises(ConfigError, match="--task and --items: give exactly one"):
        contamination(folder, task="hellaswag", items=items)
    with pytest.raises(ConfigError, match="--n 0: must be at least 1"):
        contamination(folder, task="hellaswag", data=items, n=0)
    with pytest.raises(ConfigError, match="--workers 0: must be at least 1"):
        contamination(folder, task="hellaswag", data=items, workers=0)
    with pytest.raises(
        ConfigError, match="--task sudoku: is not known; choose one of " + ", ".join(ITEM_TEXTS)
    ):
        contamination(folder, task="sudoku")
    with pytest.raises(ConfigError, match="--text-column x: names the column of --items"):
        contamination(folder, task="hellaswag", data=items, text_column="x")
    with pytest.raises(ConfigError, match="the task continuation is made from the folder"):
        contamination(folder, task="continuation", data=items)
    with pytest.raises(ConfigError, match="--task piqa: has no file of its own to download"):
        contamination(folder, task="piqa")
    with pytest.raises(ConfigError, match="is the file of a task; pass it as --items"):
        contamination(folder, items=items, data=items)
    with pytest.raises(TaskError, match=r"nothing\.jsonl: cannot be read"):
        contamination(folder, task="hellaswag", data=tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(ConfigError, match=r"empty\.jsonl: holds no text"):
        contamination(folder, items=tmp_path / "empty.jsonl")
