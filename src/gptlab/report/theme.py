"""Colours of pages and pictures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours of paper and ink; the curves' colours stay apart for colour-blind readers.

    Source: Okabe and Ito, Color Universal Design (2008), darkened or brightened for the paper.
    """

    paper: str
    card: str
    """Behind figures and tiles."""
    ink: str
    faint: str
    rule: str
    accent: str
    curves: tuple[str, ...]

    @property
    def variables(self) -> str:
        """The colours as CSS variables; `--c0` and up are the curves'."""
        named = {"paper": self.paper, "card": self.card, "ink": self.ink, "faint": self.faint}
        named |= {"rule": self.rule, "accent": self.accent}
        named |= {f"c{number}": colour for number, colour in enumerate(self.curves)}
        return "; ".join(f"--{name}: {colour}" for name, colour in named.items())


LIGHT = Theme(
    paper="#ffffff",
    card="#f7f8fa",
    ink="#1f2328",
    faint="#5f6671",
    rule="#e3e6ea",
    accent="#0067a3",
    curves=("#0072b2", "#d55e00", "#009e73", "#b0558b", "#c98a00", "#56b4e9"),
)
DARK = Theme(
    paper="#14161a",
    card="#1b1e23",
    ink="#e6e8ec",
    faint="#9aa1ab",
    rule="#30353d",
    accent="#6cbcf0",
    curves=("#56b4e9", "#f08a3c", "#2fbf93", "#dd8fbd", "#f0c541", "#8f9bff"),
)
