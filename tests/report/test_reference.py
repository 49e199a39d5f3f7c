"""The loss of another model beside those of runs: only where both are of the same tokens."""

import json

import pytest
from run_folders import curve, write_run

from gptlab import cli
from gptlab.report.charts import loss_chart
from gptlab.runs.history import read_runs

SHA256 = "1" * 64


def hashed(sha256=SHA256):
    return [row | {"items_sha256": sha256} if row["kind"] == "val" else row for row in curve()]


def loss_of(model, loss=2.5, sha256=SHA256):
    """What gptlab eval writes of a model's loss."""
    row = {"model": model, "dtype": "float32", "task": "loss", "data": "data/a", "context": 256, "loss": loss}
    return row | {"bits_per_byte": loss / 3, "tokens": 1024, "items_sha256": sha256}


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """A report of a run, `run`, beside what a file holds: exit code, complaint, page."""
    monkeypatch.chdir(tmp_path)

    def tell(content, *runs, flags=()):
        if content is not None:
            (tmp_path / "ref.json").write_text(json.dumps(content))
        words = ["report", *(runs or ("run",)), "--reference", "ref.json", *flags, "--out", "out"]
        code = cli.main(words)
        page = tmp_path / "out" / "index.html"
        return code, capsys.readouterr().err, page.read_text() if page.exists() else None

    write_run(tmp_path / "run", hashed())
    return tell


def test_a_line_across_the_loss(told, tmp_path):
    both = {"results": [loss_of("runs/gpt2"), {"task": "hellaswag", "acc": 0.3}, loss_of("other", 9.0)]}
    code, _, page = told(both, flags=["--watch"])
    assert code == 0
    assert '"references":[["gpt2 2.5000",2.5],["other 9.0000",9.0]]' in page
    assert "gptlab report run --reference ref.json --out out" in page
    runs = read_runs([tmp_path / "run"])
    chart = loss_chart(runs, [("gpt2", 2.5), ("other", 9.0)])
    assert chart.low < 2.5 < 9.0 < chart.high
    assert loss_chart(runs).low > 2.5


def test_a_line_is_in_the_unit_of_the_axis(tmp_path):
    """Bits per byte, where one of the vocabularies is padded."""
    folders = [write_run(tmp_path / name, hashed()) for name in ("one", "two")]
    recipe = folders[0] / "config.toml"
    recipe.write_text(recipe.read_text().replace("[model]\n", "[model]\nvocab_size = 257\n"))
    chart = loss_chart(read_runs(folders), [("gpt2", 3.0)])
    assert chart.title == "loss, bits per byte"
    assert chart.references == [("gpt2 1.0000", pytest.approx(1.0))]


def test_a_loss_on_other_tokens_is_refused(told, tmp_path):
    recipe = write_run(tmp_path / "other", hashed("2" * 64), data="data/b") / "config.toml"
    recipe.write_text(f"{recipe.read_text()}[eval]\nval_tokens = 512\n")
    code, complaint, page = told(loss_of("runs/gpt2"), "run", "other")
    assert (code, page) == (1, None)
    assert complaint == (
        "gptlab report: --reference ref.json: runs/gpt2 was not measured on the tokens that other is validated on; "
        "losses compare only with the same shards, tokenizer, context and --limit: "
        '"gptlab eval runs/gpt2 --task loss --data data/b --limit 512 --json ref.json"\n'
    )
    write_run(tmp_path / "old", curve())
    assert "that old is validated on" in told(loss_of("gpt2"), "old")[1], "of which tokens is not on record"


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"results": 3},
        {"task": "hellaswag"},
        loss_of("gpt2", float("nan")),
        loss_of("gpt2", 1e308),
        loss_of(3),
    ],
)
def test_a_file_without_a_loss_is_refused(told, content):
    code, complaint, page = told(content)
    assert (code, page) == (1, None)
    assert complaint == (
        "gptlab report: --reference ref.json: not a file with a loss; "
        'write one with "gptlab eval MODEL --task loss --data DIR --json ref.json"\n'
    )
