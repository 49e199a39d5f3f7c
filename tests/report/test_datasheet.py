import json
from pathlib import Path

import pytest

from gptlab import cli
from gptlab.data.audit.inspect import inspect
from gptlab.errors import ConfigError
from gptlab.report.datasheet import NUMBERS, lengths_chart, told, write_page


@pytest.fixture(scope="module")
def facts(tiny_data: Path):
    return inspect(tiny_data)


def test_the_terminal_is_told_every_number(facts):
    lines = told(facts).splitlines()
    for name, show in NUMBERS.items():
        [line] = [line for line in lines if line.startswith(f"{name:<31}")]
        assert line.split()[-2:] == [show(facts["splits"][split]) for split in ("train", "val")]
    assert any(line.startswith("train: commonest tokens ' ' ") for line in lines)
    assert sum(line.startswith(("train: document ", "val: document ")) for line in lines) == 8
    assert all(line.isascii() for line in lines)


def test_the_bars_hold_every_document(facts):
    lines = told(facts).splitlines()
    start = lines.index("train: documents by length, from so many tokens to twice that") + 1
    bars = lines[start : lines.index("", start)]
    counts = [int(line.split()[-1].replace(",", "")) for line in bars]
    assert sum(counts) == facts["splits"]["train"]["documents"]
    assert max(line.count("#") for line in bars) == 50
    powers = [int(line.split()[0].replace(",", "")) for line in bars]
    assert powers == [powers[0] * 2**number for number in range(len(powers))]


def test_what_was_dropped_and_what_leaks_is_told(facts):
    dropped = {**facts, "dropped": {"documents": 1234, "tokens": 5678}, "held_out_in_train": 3}
    text = told(dropped)
    assert "Left out when it was prepared: 1,234 copies of 5,678 tokens." in text
    assert "3 held-out documents are in the training split too." in text


def test_the_chart_shows_all_shares_and_returns_to_the_ground(facts):
    chart = lengths_chart("train", facts["splits"]["train"])
    for curve in chart.curves:
        assert curve.y.sum() == pytest.approx(100)
        assert (curve.y[0], curve.y[-1]) == (0, 0)
        assert len(curve.x) == len(curve.y)
    assert chart.x_scale == "log"


def test_the_page(facts, tmp_path: Path):
    files = write_page(facts, tmp_path / "sheet")
    assert [Path(file).name for file in files] == ["lengths_train.png", "lengths_val.png", "index.html"]
    text = (tmp_path / "sheet" / "index.html").read_text()
    assert text.count("<figure>") == 2
    assert text.count('class="sample"') == 8
    for name in NUMBERS:
        assert f"<td>{name}</td>" in text
    with pytest.raises(ConfigError, match="cannot be written"):
        write_page(facts, tmp_path / "sheet" / "index.html" / "below")


def test_the_command(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["data", "inspect", str(tiny_data), "--json", str(tmp_path / "facts.json")]
    assert cli.main(words) == 0
    assert "index.html" not in capsys.readouterr().out
    plain = json.loads((tmp_path / "facts.json").read_text())
    assert cli.main([*words, "--out", str(tmp_path / "sheet")]) == 0
    assert f"{tmp_path / 'sheet' / 'index.html'}: written" in capsys.readouterr().out
    again = json.loads((tmp_path / "facts.json").read_text())
    assert again.pop("files")[-1].endswith("index.html")
    assert again == plain
