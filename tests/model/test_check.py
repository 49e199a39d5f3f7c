"""The checks: a model broken on purpose must fail the right one."""

import torch

from gptlab.model import gpt
from gptlab.model.check import run_checks
from gptlab.model.gpt import ModelConfig
from gptlab.model.position import RoPE

ROPE = ModelConfig(n_layer=2, n_head=4, n_embd=64, context=64, vocab_size=257, position="rope")


def failed() -> set[str]:
    return {result.name for result in run_checks(ROPE) if result.status == "failed"}


def test_a_sound_model_passes():
    assert failed() == set()


def test_rotating_by_head_is_found(monkeypatch):
    rotate = RoPE.rotate
    # The published mistake: heads in the place of time.
    by_head = lambda self, x, positions: rotate(self, x.transpose(1, 2), 0).transpose(1, 2)  # noqa: E731
    monkeypatch.setattr(RoPE, "rotate", by_head)
    assert failed() & {"order", "shift", "relative_shift", "order_sensitivity"}


def test_a_missing_mask_is_found(monkeypatch):
    whole = torch.nn.functional.scaled_dot_product_attention

    def blind(q, k, v, **options):
        return whole(q, k, v, enable_gqa=options["enable_gqa"])

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", blind)
    assert "causality" in failed()


def test_a_cache_that_forgets_its_place_is_found(monkeypatch):
    rotate = RoPE.rotate
    monkeypatch.setattr(RoPE, "rotate", lambda self, x, positions: rotate(self, x, 0))
    assert "cache" in failed()


def test_a_dead_parameter_is_found(monkeypatch):
    monkeypatch.setattr(
        gpt.Block, "forward", lambda self, x, inputs: x + self.attention(self.norm1(x), inputs)
    )
    assert "gradients" in failed()


def test_no_position_is_exempt_and_says_so():
    config = ModelConfig(n_layer=2, n_head=4, n_embd=64, context=64, vocab_size=257, position="none")
    exempt = [result for result in run_checks(config) if result.status == "exempt"]
    assert exempt
    assert all("none" in result.detail for result in exempt)
