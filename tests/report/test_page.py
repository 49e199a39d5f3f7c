import warnings
from io import BytesIO

import matplotlib.image
import numpy as np
import pytest

from gptlab.amounts import amount
from gptlab.errors import ConfigError
from gptlab.report.chart import Chart, Curve
from gptlab.report.page import (
    commands,
    details,
    figure,
    heading,
    link,
    page,
    paragraph,
    samples,
    table,
    tiles,
)
from gptlab.report.page_folder import write
from gptlab.report.picture import LINES, draw
from gptlab.report.theme import DARK, LIGHT

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
    pieces += [
        link(evil, "a"),
        link("a", evil),
        tiles([(evil, evil, evil)]),
        details(evil, ""),
        commands([evil]),
    ]
    pieces += [samples([{"prompt": evil, "text": evil}]), page(evil, evil, {evil: ""})]
    for piece in pieces:
        assert safe in piece
        assert "<i>" not in piece


def test_of_blank_lines_in_a_row_one_is_set():
    text = "\n\n\n \t\n\none\ntwo\n\nthree\n\n\n  four\n\n"
    assert "<b>A</b>\n\none\ntwo\n\nthree\n\n  four\n\n</div>" in samples([{"prompt": "A", "text": text}])


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
def test_every_kind_of_line_is_visible(style):
    picture = draw(chart(Curve(0, X, X, style)))
    empty = draw(chart())
    assert pixels(picture.light).shape == (840, 1600, 4)
    assert pixels(picture.light)[0, 0] == pytest.approx([1, 1, 1, 1])
    assert pixels(picture.small)[0, 0, 3] == 0, "the page's own paper shows through"
    for drawn, blank in ((picture.light, empty.light), (picture.small, empty.small)):
        inside = np.s_[len(pixels(drawn)) // 6 : -len(pixels(drawn)) // 6, 150:]
        assert np.abs(pixels(drawn)[inside] - pixels(blank)[inside]).mean() > 1e-4


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
    assert draw(chart(Curve(0, X, X, low=0.9 * X, high=1.1 * X))).light != plain
    one, frame = X[-1:], {"low": 0, "high": 2e6}
    bands = ({}, {"low": one / 2, "high": 1.5 * one})
    alone = [draw(chart(Curve(0, one, one, "line and points", **band), **frame)) for band in bands]
    assert np.count_nonzero(pixels(alone[0].light) != pixels(alone[1].light)) > 500


def test_drawing_is_repeatable():
    assert draw(chart(Curve(0, X, X, label="run"))) == draw(chart(Curve(0, X, X, label="run")))


def test_the_style_has_its_colours():
    text = page("title", "lead", {})
    assert LIGHT.paper in text
    assert DARK.faint in text
    assert all(colour in text for colour in (*LIGHT.curves, *DARK.curves))


def test_a_picture_that_is_not_drawn_has_no_image():
    picture = draw(chart(Curve(0, X, X)), pictures=False)
    assert (picture.light, picture.small) == (b"", b"")
    assert "<noscript>" not in figure(picture)
    drawn = draw(chart(Curve(0, X, X)))
    assert "<noscript>" in figure(drawn)
    width = pixels(drawn.small).shape[1]
    assert f"figure img {{ display: block; width: 100%; min-width: {width}px;" in page("title", "lead", {})


def test_a_page_loads_itself_anew_only_when_asked():
    assert 'http-equiv="refresh"' not in page("title", "lead", {})
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page(
        "title", "lead", {}, reload_s=5
    )


def test_files_are_whole_or_not_there(tmp_path):
    write(tmp_path / "a" / "b", {"one": b"1"})
    (tmp_path / "a" / "b" / "two").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path / "a" / "b", {"one": b"11", "two": b"2"})
    assert (tmp_path / "a" / "b" / "one").read_bytes() == b"11"
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["one", "two"]
