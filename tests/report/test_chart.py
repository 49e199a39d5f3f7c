"""Charts: thinning, the front, and the numbers that a page's script reads."""

import base64
import json

import numpy as np
import pytest

from gptlab.report.chart import BUCKETS, FLOPS, THINNED, TIME, Chart, Curve, extremes, front
from gptlab.report.interactive import payload


def noise(length):
    return np.random.default_rng(0).normal(size=length)


@pytest.mark.parametrize("length", [0, 1, 7, 2 * BUCKETS, 2 * BUCKETS + 1, 20_000])
def test_thinning_keeps_the_ends_and_every_extreme(length):
    y = noise(length)
    kept = extremes(y, BUCKETS)
    assert len(kept) <= 2 * BUCKETS + 2
    assert (np.diff(kept) > 0).all()
    if length <= 2 * BUCKETS:
        assert len(kept) == length
    else:
        assert {0, length - 1, int(y.argmin()), int(y.argmax())} <= set(kept.tolist())
        assert (kept < length / 100).sum() > len(kept) / 100, "a logarithmic axis shows the beginning large"


def test_a_thinned_curve_keeps_its_points_together():
    x, y = np.arange(20_000.0), noise(20_000)
    curve = Curve(0, x, y, "faint", low=y - 1, high=y + 1, also={TIME: 2 * x})
    short = Chart("name", "title", "Caption.", [curve]).thinned()
    [thin] = short.curves
    assert short.caption == f"Caption. {THINNED}"
    assert thin.y == pytest.approx(y[thin.x.astype(int)])
    assert thin.also[TIME] == pytest.approx(2 * thin.x)
    assert (thin.low, thin.high) == (pytest.approx(thin.y - 1), pytest.approx(thin.y + 1))


def test_a_caption_stays_where_nothing_is_lost_to_the_eye():
    x = np.arange(20_000.0)
    curves = [Curve(0, x, x), Curve(0, x[:9], x[:9], "points")]
    assert Chart("name", "title", "Caption.", curves).thinned().caption == "Caption."


def test_the_front_is_what_no_other_point_beats():
    x, y = np.array([3.0, 1.0, 2.0, 4.0, 1.0]), np.array([2.0, 5.0, 6.0, 2.0, 4.0])
    assert front(x, y) == [4, 0]


def test_only_axes_that_all_curves_have_are_offered():
    x = np.arange(3.0)
    both = [Curve(0, x, x, also={FLOPS: x, TIME: x}), Curve(1, x, x, also={TIME: x})]
    assert Chart("name", "title", "", both).axes == ["training tokens", TIME]


def test_a_payload_holds_the_numbers_and_cannot_end_its_element():
    x = np.arange(3.0)
    curve = Curve(2, x, x / 3, label="</script>: 1", low=x, also={TIME: 7 * x})
    text = payload(Chart("name", "title", "", [curve], references=[("<b>", 1.0)], low=0.5))
    assert "<" not in text
    told = json.loads(text)
    assert (told["frame"], told["references"]) == ([0.5, None], [["<b>", 1.0]])
    [read] = told["curves"]
    assert (read["run"], read["label"]) == (2, "</script>: 1")
    columns = [np.frombuffer(base64.b64decode(each), "<f4") for each in (*read["x"], read["y"], read["low"])]
    for column, expected in zip(columns, (x, 7 * x, x / 3, x), strict=True):
        assert column == pytest.approx(expected)
    assert "high" not in read
