import json
from dataclasses import asdict

import pytest

from gptlab.study.verdict import Verdict, holm, mean_sd


def verdict(**given: object) -> Verdict:
    made = {
        "name": "RoPE",
        "n": 3,
        "mean": 3.26,
        "sd": 0.01,
        "difference": -0.021,
        "interval": (-0.032, -0.010),
    }
    return Verdict(**{**made, "p": 0.01, "verdict": "better", "seeds_needed": 3, **given})


def test_facts_have_the_keys_of_the_contract():
    assert json.loads(json.dumps(asdict(verdict()))) == {
        "name": "RoPE",
        "n": 3,
        "mean": 3.26,
        "sd": 0.01,
        "difference": -0.021,
        "interval": [-0.032, -0.010],
        "p": 0.01,
        "verdict": "better",
        "seeds_needed": 3,
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "RoPE is better than GPT-2 by 0.021 nats (95 % interval 0.010 to 0.032)."),
        (
            {"difference": 0.021, "interval": (0.010, 0.032), "verdict": "worse"},
            "RoPE is worse than GPT-2 by 0.021 nats (95 % interval 0.010 to 0.032).",
        ),
        (
            {"interval": (-0.05, 0.008), "verdict": "not distinguishable", "seeds_needed": 1200},
            "RoPE is not distinguishable from GPT-2: measured -0.021 nats (95 % interval -0.050 to +0.008); about "
            "1,200 seeds would show a difference of this size.",
        ),
        (
            {"interval": (-0.05, 0.008), "verdict": "not distinguishable", "seeds_needed": None},
            "RoPE is not distinguishable from GPT-2: measured -0.021 nats (95 % interval -0.050 to +0.008).",
        ),
        (
            {"interval": None, "verdict": None},
            "RoPE differs from GPT-2 by -0.021 nats in these runs; they allow no claim about new runs, which takes two "
            "seeds or more that differ.",
        ),
        (
            {"n": 0, "mean": None, "difference": None, "interval": None, "verdict": None},
            "RoPE: no finished run to compare with GPT-2.",
        ),
    ],
)
def test_sentence(given: dict[str, object], said: str):
    assert verdict(**given).sentence("GPT-2", "nats", 3) == said


def test_holm_by_hand():
    """The example of Holm's rule: 0.01 x 4, 0.013 x 3 held up by the one before, 0.03 x 2, 0.04 held up."""
    assert holm([0.04, 0.01, 0.03, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_mean_and_sd():
    assert mean_sd([]) == (None, None)
    assert mean_sd([3.0]) == (3.0, None)
    assert mean_sd([1.0, 2.0, 3.0]) == (2.0, 1.0)
