from gptlab.eval.hellaswag import PROTOCOLS
from gptlab.eval.published import PUBLISHED, beside


def test_every_line_has_a_protocol_a_source_and_a_score():
    for line in PUBLISHED:
        assert line.source
        assert line.protocol in PROTOCOLS
        scores = [score for score in (line.acc, line.acc_norm) if score is not None]
        assert scores
        assert all(0.25 < score < 1 for score in scores)


def test_a_line_stands_beside_its_own_protocol_and_shots_only():
    assert {line.model for line in beside("completion", 0)} >= {"GPT-2 124M", "GPT-3 350M"}
    assert all(line.shots == 10 and line.protocol == "harness" for line in beside("harness", 10))
    assert not any("GPT-3" in line.model for line in beside("harness", 0))
    assert beside("harness", 5) == beside("lm-eval", 0) == []
