import json
import math
from pathlib import Path

import pytest
import torch
from causal_models import Called
from torch import nn

from gptlab.errors import TaskError
from gptlab.eval import hellaswag
from gptlab.eval.accuracy import multiple_choice
from gptlab.eval.hellaswag import Example, completion, harness, read
from gptlab.storage import file_sha256

LINE = {
    "ind": 4,
    "activity_label": "Baking",
    "ctx_a": "A cook opens the oven.",
    "ctx_b": "she",
    "ctx": "A cook opens the oven. she",
    "endings": ["takes out a cake.", "sleeps.", "paints it.", "swims away."],
    "label": 0,
}


def encode(text: str) -> list[int]:
    """A token a character."""
    return [ord(character) for character in text]


def decode(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def write(folder: Path, *lines: object) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_reads_the_sample_whole(shared):
    path = shared("data/hellaswag_val_sample.jsonl")
    examples = read(path)
    raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(examples) == len(raw) == 1152
    assert [example.label for example in examples] == [item["label"] for item in raw]
    assert [list(example.endings) for example in examples] == [item["endings"] for item in raw]
    assert [example.ctx for example in examples] == [item["ctx"] for item in raw]


def test_label_may_be_text_and_fields_beyond_the_needed_are_ignored(tmp_path):
    path = write(tmp_path, LINE | {"label": "3", "split": "val"}, "\n", LINE)
    assert [example.label for example in read(path)] == [3, 0]


def test_blank_lines_hold_no_example(tmp_path):
    path = write(
        tmp_path, "\n", LINE, " \n", LINE | {"label": 2, "activity_label": "B\u00e4cker"}, LINE | {"label": 1}
    )
    examples = read(path)
    assert [examples[i].label for i in (2, 0, 1, -1)] == [1, 0, 2, 1]
    assert [example.label for example in examples[1:]] == [2, 1]
    assert examples[1].activity_label == "B\u00e4cker"
    assert len(examples) == 3


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    path = write(tmp_path, LINE, LINE | {"label": 3})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    examples = read(path)
    assert [example.label for example in examples] == [0, 3]
    assert examples[0].activity_label == "Baking"


def test_keys_are_equal_where_all_fields_are(tmp_path):
    reordered = dict(reversed(LINE.items()))
    keys = read(write(tmp_path, LINE, reordered, LINE | {"ind": 5})).keys
    assert keys[0] == keys[1] != keys[2]


def test_limit_takes_the_first_and_does_not_read_on(tmp_path):
    path = write(tmp_path, LINE, LINE | {"label": 2}, "broken\n")
    assert [example.label for example in read(path, limit=2)] == [0, 2]
    with pytest.raises(TaskError):
        read(path, limit=3)


@pytest.mark.parametrize("field", ["activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"])
def test_missing_field_is_named_with_its_line(tmp_path, field):
    path = write(tmp_path, LINE, {key: value for key, value in LINE.items() if key != field})
    with pytest.raises(TaskError, match=rf"items.jsonl line 2: field '{field}' is missing; fix it"):
        read(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"endings": ["one"]}, "field 'endings' has 1 of them, but an item has 4"),
        ({"endings": ["a", "b", "c", "d", "e"]}, "field 'endings' has 5 of them"),
        ({"endings": ["a", "b", "c", 4]}, "field 'endings' is not a list of texts"),
        ({"endings": "abcd"}, "field 'endings' is not a list of texts"),
        ({"label": 4}, "field 'label' is 4, but the right ending is one of 0 to 3"),
        ({"label": -1}, "field 'label' is -1"),
        ({"label": ""}, "field 'label' is ''"),
        ({"label": True}, "field 'label' is True"),
        ({"label": None}, "field 'label' is None"),
        ({"ctx": " "}, "field 'ctx' is empty"),
        ({"ctx_a": 7}, "field 'ctx_a' is 7, not text"),
    ],
)
def test_bad_field_is_named(tmp_path, change, problem):
    with pytest.raises(TaskError) as refused:
        read(write(tmp_path, LINE | change))
    assert problem in str(refused.value)
    assert "line 1" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"ctx": \n', "line 1: not JSON"),
        ("[" * 100_000 + "\n", r"line 1: not JSON \(nested too deeply\)"),
        ("[1, 2]\n", "line 1: not a JSON object"),
        ("", "holds no HellaSwag item"),
        ("\n \n", "holds no HellaSwag item"),
    ],
)
def test_broken_file_is_refused(tmp_path, content, problem):
    with pytest.raises(TaskError, match=problem):
        read(write(tmp_path, content))


def test_what_is_no_text_file_is_refused(tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.jsonl", tmp_path, binary):
        with pytest.raises(TaskError, match="cannot be read as a HellaSwag file"):
            read(path)


def example(**change: object) -> Example:
    fields = {key: value for key, value in (LINE | change).items() if key != "ind"}
    return Example(**fields | {"endings": tuple(fields["endings"])})


def test_completion_continues_the_raw_context():
    item = completion(example(), encode)
    assert [decode(before) for before, _ in item.pairs] == [LINE["ctx"]] * 4
    assert [decode(ending) for _, ending in item.pairs] == [" " + ending for ending in LINE["endings"]]
    assert item.lengths == tuple(len(ending) + 1 for ending in LINE["endings"])
    assert item.label == 0


def test_harness_cleans_and_names_the_activity():
    wikihow = example(
        activity_label="Baking",
        ctx_a="[header] How to bake [title] Heat the oven. [step] Turn the knob  slowly.",
        ctx_b="tHEN wait",
        endings=["[substeps] Eat it.", "b [step]", "c", "dd"],
    )
    item = harness(wikihow, encode)
    assert decode(item.pairs[0][0]) == "Baking: How to bake. Heat the oven. Turn the knob slowly. Then wait"
    assert [decode(ending) for _, ending in item.pairs] == ["  Eat it.", " b ", " c", " dd"]
    assert item.lengths == (8, 2, 1, 2)


def test_harness_gives_the_contexts_last_spaces_to_the_ending():
    item = harness(example(ctx_a="Stir.", ctx_b=""), encode)
    assert decode(item.pairs[0][0]) == "Baking: Stir."
    item = harness(example(ctx_a="Stir. [step]", ctx_b=""), encode)
    assert [decode(item.pairs[1][0]), decode(item.pairs[1][1])] == ["Baking: Stir.", "  sleeps."]


def test_harness_refuses_an_ending_that_vanishes():
    with pytest.raises(TaskError, match="adds no token"):
        harness(example(), lambda text: [0])


@pytest.mark.parametrize(("split", "flag"), [("val", "--data"), ("train", "--fewshot-data")])
def test_what_is_downloaded_is_the_published_file(tmp_path, monkeypatch, split, flag):
    (tmp_path / split).mkdir()
    served = write(tmp_path / split, LINE, LINE, LINE)
    monkeypatch.setitem(hellaswag.SHA256, split, file_sha256(served))
    url = served.as_uri().replace(f"/{split}/", "/{split}/")
    cache = tmp_path / "cache"
    path = hellaswag.downloaded(split, cache, url)
    assert len(read(path)) == 3
    assert hellaswag.official(path, split)
    assert [file.name for file in cache.iterdir()] == [f"hellaswag_{split}.jsonl"]
    assert hellaswag.downloaded(split, cache, "file:///gone") == path  # from the cache, not the network

    write(tmp_path / split, LINE | {"ctx": "as many items, other ones"}, LINE, LINE)
    problem = rf"sent a file with sha256 .*, but HellaSwag's {split} set has .*{flag} FILE"
    with pytest.raises(TaskError, match=problem):
        hellaswag.downloaded(split, tmp_path / "other", url)
    assert not (tmp_path / "other").exists()
    path.write_bytes(served.read_bytes())
    with pytest.raises(
        TaskError, match=rf"is not HellaSwag's {split} set, .*; delete it to download it again"
    ):
        hellaswag.downloaded(split, cache, url)


def test_a_sample_of_the_validation_set_is_not_the_set(shared):
    assert not hellaswag.official(shared("data/hellaswag_val_sample.jsonl"), "val")


def test_without_a_network_the_way_out_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"cannot be downloaded .*; give HellaSwag's JSONL with --data FILE"):
        hellaswag.downloaded("val", tmp_path / "cache", (tmp_path / "absent").as_uri())
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(TaskError, match="cannot be downloaded"):
        hellaswag.downloaded("val", in_the_way / "cache", (tmp_path / "absent").as_uri())


def test_completion_scores_as_build_nanogpt_does(shared):
    """As it says: a row is context and ending, and the least mean cross entropy over the ending wins."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(128, 16), nn.Linear(16, 128))
    with torch.no_grad():
        model[0].weight.mul_(3)
    examples = read(shared("data/hellaswag_val_sample.jsonl"), limit=60)

    def ascii_ids(text: str) -> list[int]:
        return [ord(character) % 128 for character in text]

    items = [completion(example, ascii_ids) for example in examples]
    result = multiple_choice(Called(model), items, context=4096, batch_tokens=20_000, device="cpu")
    for example, row in zip(examples, result.rows, strict=True):
        sums, means = [], []
        for ending in example.endings:
            context_ids, ending_ids = ascii_ids(example.ctx), ascii_ids(" " + ending)
            row_ids = torch.tensor(context_ids + ending_ids)
            mask = torch.tensor([0] * len(context_ids) + [1] * len(ending_ids))
            with torch.no_grad():
                losses = nn.functional.cross_entropy(model(row_ids[:-1]), row_ids[1:], reduction="none")
            losses = losses * mask[1:]
            sums.append(losses.sum().item())
            means.append((losses.sum() / mask[1:].sum()).item())
        assert row["log_likelihoods"] == pytest.approx([-loss for loss in sums], rel=1e-5)
        assert row["pred"] == sums.index(min(sums))
        assert row["pred_norm"] == means.index(min(means))
    assert len({row["pred"] for row in result.rows}) == 4
    assert any(row["pred"] != row["pred_norm"] for row in result.rows)
    assert result.stderr == pytest.approx(math.sqrt(result.acc * (1 - result.acc) / 59))
