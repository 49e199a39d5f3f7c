"""Published runs that the surfaces were not fitted to."""

import pytest

from gptlab.plan import surface
from gptlab.plan.surface import BAND, COMPLETION, HELLASWAG_BAND, SURFACES, hellaswag

GPT2, MEDIUM = 124.4e6, 354.8e6


@pytest.mark.parametrize(
    ("text", "parameters", "tokens", "published"),
    [
        pytest.param("fineweb", GPT2, 10e9, 3.28, id="llm.c, discussion 481"),
        pytest.param("fineweb", MEDIUM, 31e9, 2.93, id="modded-nanogpt"),
        pytest.param("fineweb-edu", GPT2, 10e9, 3.05, id="a user's write-up, the best of 3.05 to 3.22"),
    ],
)
def test_losses(text, parameters, tokens, published):
    assert SURFACES[text].loss(parameters, tokens) == pytest.approx(published, abs=BAND / 2)


@pytest.mark.parametrize(
    ("text", "parameters", "tokens", "published"),
    [
        pytest.param("fineweb", GPT2, 10e9, 0.299 - COMPLETION, id="llm.c, completion"),
        pytest.param("fineweb-edu", GPT2, 10e9, 0.304, id="a user's 124M"),
        pytest.param("fineweb-edu", MEDIUM, 5.24e9, 0.335, id="a user's 350M after half its steps"),
    ],
)
def test_scores(text, parameters, tokens, published):
    assert hellaswag(SURFACES[text], parameters, tokens) == pytest.approx(published, abs=0.015)


def test_the_band_reaches_the_lowest_published_score():
    expected = hellaswag(SURFACES["fineweb-edu"], GPT2, 10e9)
    assert expected + HELLASWAG_BAND[0] <= 0.283 < 0.304 <= expected + HELLASWAG_BAND[1]


def test_the_fits_own_scores():
    for parameters, tokens, score in surface._SCORED:
        for text in SURFACES.values():
            assert hellaswag(text, parameters, tokens) == pytest.approx(score + surface.USERS)


def test_more_is_better_and_chance_is_the_floor():
    for text in SURFACES.values():
        losses = [text.loss(n, d) for n, d in ((1e8, 1e9), (1e8, 1e10), (1e9, 1e10), (1e9, 1e11))]
        assert losses == sorted(losses, reverse=True)
        scores = [
            hellaswag(text, n, d)
            for n, d in ((2e7, 1e7), (1e8, 1e9), (1e8, 1e10), (1e9, 1e10), (1.5e9, 3e10))
        ]
        assert scores == sorted(scores)
        assert scores[0] == 0.25
