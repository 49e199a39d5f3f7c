"""What others report: scores on HellaSwag, each with the protocol that makes it comparable, and what tasks tell."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model's score on the whole validation set; fractions."""

    model: str
    protocol: str
    """A name of hellaswag.PROTOCOLS: the line is shown beside scores of this protocol only."""
    shots: int = 0
    """Solved examples in the prompt; the line is shown beside scores with as many only."""
    acc: float | None = None
    acc_norm: float | None = None
    source: str


def beside(protocol: str, shots: int) -> list[Published]:
    """Return the lines that may be compared with a score."""
    return [line for line in PUBLISHED if (line.protocol, line.shots) == (protocol, shots)]


_BUILD_NANOGPT = "karpathy/build-nanogpt, head of hellaswag.py"
_PLOT = "karpathy/build-nanogpt, play.ipynb"
# The paper compares endings by their likelihood per token, as `completion` does; its prompt is its own.
_GPT3 = "Brown et al. (2020), https://arxiv.org/abs/2005.14165, table H.1, normalised per token, own prompt"
_LEADERBOARD = "Open LLM Leaderboard 2023, model card of openai-community/{}, an older harness"

PUBLISHED = (
    Published(model="GPT-2 124M", protocol="completion", acc=0.2859, acc_norm=0.2955, source=_BUILD_NANOGPT),
    Published(model="GPT-2 350M", protocol="completion", acc_norm=0.3752, source=_PLOT),
    Published(model="GPT-2 774M", protocol="completion", acc_norm=0.4320, source=_PLOT),
    Published(model="GPT-2 1558M", protocol="completion", acc=0.3842, acc_norm=0.4893, source=_BUILD_NANOGPT),
    Published(model="GPT-3 125M", protocol="completion", acc_norm=0.337, source=_GPT3),
    Published(model="GPT-3 350M", protocol="completion", acc_norm=0.436, source=_GPT3),
    Published(model="GPT-2 124M", protocol="harness", acc=0.2892, acc_norm=0.3114, source=_BUILD_NANOGPT),
    Published(model="GPT-2 1558M", protocol="harness", acc=0.4004, acc_norm=0.5089, source=_BUILD_NANOGPT),
    Published(
        model="GPT-2 124M", protocol="harness", shots=10, acc_norm=0.3153, source=_LEADERBOARD.format("gpt2")
    ),
    Published(
        model="GPT-2 774M",
        protocol="harness",
        shots=10,
        acc_norm=0.4562,
        source=_LEADERBOARD.format("gpt2-large"),
    ),
)

ORDERED_AT_150M = {
    "arc_easy": 0.93,
    "mmlu_continuation": 0.89,
    "arc_challenge": 0.83,
    "hellaswag": 0.74,
    "piqa": 0.74,
    "winogrande": 0.50,
    "boolq": 0.48,
}
"""Of all pairs of 25 training corpora, the share whose models of 150M a task orders as it orders those of 1B.

A coin orders half of them. The prompts are OLMES's, in cloze form.

Source: allenai/signal-and-noise, README.md, decision accuracy; Heineman et al. (2025),
https://arxiv.org/abs/2508.13144.
"""
