"""Drawing the next token from logits: temperature, top-k and top-p.

Source: Fan et al. (2018), https://arxiv.org/abs/1805.04833, sec. 5.1 for top-k; Holtzman et al. (2020),
https://arxiv.org/abs/1904.09751, sec. 3.1 for top-p.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def draw(
    logits: Float[Tensor, "rows vocab"],
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Int[Tensor, " rows"]:
    """Draw a token for every row."""
    if temperature == 0:
        return logits.argmax(-1)
    # With the largest logit at zero, no temperature is too small to divide by.
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    logits = keep_likeliest(logits, top_k=top_k, top_p=top_p)
    # torch.multinomial draws a random number for every token of the vocabulary, which is several times slower on a CPU.
    # The sums are of integers, as a GPU adds floats in varying order.
    bounds = (logits.softmax(-1).float() * 2**40).long().cumsum(-1)
    where = generator.device
    chance = torch.rand(len(bounds), 1, dtype=torch.float64, device=where, generator=generator)
    aim = (chance * bounds[:, -1:].to(where)).long().to(bounds.device)
    return torch.searchsorted(bounds, aim, right=True)[:, 0]


def keep_likeliest(
    logits: Float[Tensor, "rows vocab"], *, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "rows vocab"]:
    """Set all but the `top_k` likeliest tokens to -inf, then all but those that together reach `top_p`."""
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None:
        # Summed from the least likely on, where rounding is small; the likeliest always stays.
        ranked, order = logits.sort()
        surplus = ranked.softmax(-1).cumsum(-1) <= 1 - top_p
        surplus[:, -1] = False
        logits = logits.masked_fill(surplus.scatter(-1, order, surplus), -torch.inf)
    return logits
