"""Drawing a token: the filters against transformers', and what can never be drawn."""

import pytest
import torch

from gptlab.draw import draw, keep_likeliest


@pytest.mark.parametrize(("chance", "token"), [(0.0, 1), (0.4999, 1), (0.5001, 3), (1 - 2**-53, 3)])
def test_what_has_no_probability_is_never_drawn(
    chance: float, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **_: torch.full(shape, chance, dtype=dtype))
    logits = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]]).log()
    drawn = draw(logits, temperature=1.0, top_k=None, top_p=None, generator=torch.Generator())
    assert drawn.tolist() == [token]


@pytest.mark.parametrize("top_k", [None, 1, 7, 100, 1000])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.93, 1.0])
def test_filters_are_those_of_transformers(top_k: int | None, top_p: float | None) -> None:
    warpers = pytest.importorskip("transformers.generation.logits_process")
    theirs = logits = 4 * torch.randn(8, 100, generator=torch.Generator().manual_seed(2))
    if top_k is not None:
        theirs = warpers.TopKLogitsWarper(top_k)(None, theirs)
    if top_p is not None:
        theirs = warpers.TopPLogitsWarper(top_p)(None, theirs)
    assert torch.equal(keep_likeliest(logits, top_k=top_k, top_p=top_p), theirs)
