"""What a model of N parameters after D tokens will reach: its loss and its HellaSwag score, from published runs."""

from dataclasses import dataclass

from gptlab.eval.chance import CHANCE

SMALLEST, LARGEST = 20e6, 1.7e9
"""Parameters between which the surfaces were fitted."""
MOST_FLOPS = 1e20
"""Twice the largest run of the fits; beyond it nothing is predicted."""
OTHER_TOKENS = 1.10
"""Nats per token of GPT-2's vocabulary over those of the fits' own, of 32,000 entries; the anchors below agree."""
BAND = 0.04
"""Nats: three times the largest deviation from the anchors."""
MUON_TOKENS = 1.4
"""AdamW's tokens over Muon's at 0.1 billion parameters: Wen et al. (2025), https://arxiv.org/abs/2509.02046."""
CPU_TOKENS = 4.0
"""The same of the whole fast recipe at a million parameters, by docs/log.md; the most that it can be hoped to be."""


@dataclass(frozen=True)
class Surface:
    """The loss floor + a / N^alpha + b / D^beta, in nats per token of the fits' vocabulary.

    Source: KempnerInstitute/loss-to-loss-notebooks, the form of Hoffmann et al. (2022), https://arxiv.org/abs/2203.15556,
    fitted to 181 runs of 20 million to 1.7 billion parameters (embeddings included) and 2e17 to 4.8e19 FLOPs.
    """

    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    deviation: float
    """Standard deviation of the residuals."""

    def fitted(self, parameters: float, tokens: float) -> float:
        """Return the loss in the fits' own tokens."""
        return self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the loss in nats per token of GPT-2's vocabulary."""
        return OTHER_TOKENS * self.fitted(parameters, tokens)


SURFACES = {
    "fineweb": Surface(2.147, 1637, 0.4267, 4199, 0.4212, 0.008),
    "fineweb-edu": Surface(2.002, 2518, 0.4540, 7161, 0.4495, 0.011),
}
"""By the text that is trained and validated on."""

POOLS = {"fineweb": ("data/fineweb10B", 10e9), "fineweb-edu": ("data/fineweb_edu10B", 10e9)}
"""Where recipes keep what `gptlab data prepare` makes of these names, and its tokens."""

# Parameters, tokens, and accuracy by lm-evaluation-harness (acc_norm, no shots) of three runs of the fits.
_SCORED = ((134e6, 1.2e9, 0.285), (311e6, 5.4e9, 0.346), (778e6, 10.4e9, 0.422))
USERS = -0.017
"""What GPT-2-class runs with GPT-2's vocabulary score beyond the fits' at equal loss: the mean of what is published."""
COMPLETION = -0.016
"""The score of the completion protocol less the harness's, of GPT-2 124M: 29.55 and 31.14 %."""
HELLASWAG_BAND = (-0.032, 0.015)
"""Around the expected score: what published runs deviated from it, a user's 28.3 % most."""


def hellaswag(surface: Surface, parameters: float, tokens: float) -> float:
    """Return the expected accuracy in lm-evaluation-harness (acc_norm, no shots), a fraction."""
    scored = [(surface.fitted(n, d), score) for n, d, score in _SCORED]
    loss = surface.fitted(parameters, tokens)
    # A line through the two nearest, so that the ends continue theirs.
    (loss_a, score_a), (loss_b, score_b) = scored[:2] if loss > scored[1][0] else scored[1:]
    score = score_a + (loss - loss_a) * (score_b - score_a) / (loss_b - loss_a)
    return max(CHANCE["hellaswag"], score + USERS)
