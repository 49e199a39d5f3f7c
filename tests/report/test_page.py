import warnings
from io import BytesIO

import matplotlib.image
import numpy as np
import pytest

from gptlab.errors import ConfigError
from gptlab.report.page import (
    DARK,
    LIGHT,
    LINES,
    Chart,
    Curve,
    amount,
    draw,
    heading,
    page,
    paragraph,
    samples,
    table,
    write,
)

X = np.linspace(0, 1e6, 30)


def chart(*curves, **settings):
    return Chart("name", "title", "caption", curves, **settings)


def pixels(png):
    return matplotlib.image.imread(BytesIO(png))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (950, "950"),
        (8192, "8.192k"),
        (124_439_808, "124.4M"),
        (9_999_745_024, "10B"),
        (3e12, "3T"),
        (0.0012, "0.0012"),
    ],
)
def test_amount(value, text):
    assert amount(value) == text


def test_every_function_escapes():
    evil = "<i>&\"'"
    safe = "&lt;i&gt;&amp;&quot;&#x27;"
    pieces = [heading(evil), paragraph(evil), paragraph(evil, "note"), table([evil], [[evil]])]
    pieces += [samples([{"prompt": evil, "text": evil}]), page(evil, evil, {evil: ""})]
    for piece in pieces:
        assert safe in piece
        assert "<i>" not in piece


def test_a_column_of_numbers_stands_right_and_others_left():
    cells = table(["name", "loss", "mixed"], [["a", "3.2", "1"], ["b", "\N{EN DASH}", "one"]])
    assert cells.count('class="number"') == 3
    assert '<th class="number">loss</th>' in cells
    assert "<td>one</td>" in cells


def test_a_table_may_be_empty_but_not_ragged():
    assert "<th>name</th><th>loss</th>" in table(["name", "loss"], [])
    with pytest.raises(ValueError, match="argument"):
        table(["name"], [["a", "b"]])


@pytest.mark.parametrize("style", LINES)
def test_every_kind_of_line_is_visible_on_both_papers(style):
    picture = draw(chart(Curve(0, X, X, style)))
    empty = draw(chart())
    for drawn, blank, theme in ((picture.light, empty.light, LIGHT), (picture.dark, empty.dark, DARK)):
        assert pixels(drawn).shape == (840, 1600, 4)
        paper = [int(theme.paper[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert pixels(drawn)[0, 0, :3] == pytest.approx(paper, abs=1e-6)
        assert np.abs(pixels(drawn)[150:700, 150:] - pixels(blank)[150:700, 150:]).mean() > 1e-4


def test_labels_are_shown_as_they_are():
    """Old versions of matplotlib hide _names, and all read $ as mathematics: two would be equal, or fail."""
    labels = ["_a", "_b", "$x^$", "$x_$", r"\frac"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = {draw(chart(Curve(0, X, X, label=label))).light for label in labels}
    assert len(drawn) == len(labels)


def test_more_runs_than_colours_are_told_apart():
    count = 2 * len(LIGHT.curves)
    drawn = {draw(chart(Curve(run, X, X))).light for run in range(0, count, 3)}
    assert len(drawn) == len(range(0, count, 3))


def test_a_chart_of_one_point_at_the_origin_is_drawn():
    assert pixels(draw(chart(Curve(0, np.zeros(1), np.zeros(1), "points", "run"), low=0)).light).std() > 0.01


def ink_beside(*values):
    """Count the pixels of the labels beside a picture with lines across at these values."""
    image = pixels(draw(chart(Curve(0, X, X), references=[("MMMMMM", value) for value in values])).light)
    margin = image[:, -image.shape[1] // 25 :]
    return int((margin != margin[0, -1]).any(-1).sum())


def test_labels_of_lines_near_each_other_stand_apart():
    assert ink_beside(5e5, 5.01e5, 4.99e5) == pytest.approx(3 * ink_beside(5e5), rel=0.05)


def test_references_and_bands_are_drawn():
    plain = draw(chart(Curve(0, X, X))).light
    assert draw(chart(Curve(0, X, X), references=[("chance", 5e5)])).light != plain
    assert draw(chart(Curve(0, X, X, error=X / 10))).light != plain
    one, frame = X[-1:], {"low": 0, "high": 2e6}
    alone = [draw(chart(Curve(0, one, one, "line and points", error=e), **frame)) for e in (None, one / 2)]
    assert np.count_nonzero(pixels(alone[0].light) != pixels(alone[1].light)) > 500


def test_drawing_is_repeatable():
    assert draw(chart(Curve(0, X, X, label="run"))) == draw(chart(Curve(0, X, X, label="run")))


def test_the_style_has_its_colours():
    text = page("title", "lead", {})
    assert LIGHT.paper in text
    assert DARK.faint in text
    assert "LIGHT_" not in text
    assert "DARK_" not in text


def test_files_are_whole_or_not_there(tmp_path):
    write(tmp_path / "a" / "b", {"one": b"1"})
    (tmp_path / "a" / "b" / "two").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path / "a" / "b", {"one": b"11", "two": b"2"})
    assert (tmp_path / "a" / "b" / "one").read_bytes() == b"11"
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["one", "two"]
