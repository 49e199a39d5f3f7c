"""The errors gptlab raises on purpose; each prints as one line: the value, the rule, the remedy.

GptlabError            what the command line catches: one line, exit code 1, no traceback
├── ConfigError        a recipe, a flag, or a combination of them that cannot be
├── DataError          a source, tokenizer, shard or manifest that is missing, damaged or foreign
├── TaskError          an evaluation file or item that cannot be scored
├── CheckpointError    a checkpoint or model folder that is damaged or of another architecture
├── TrainError         a run that cannot go on
└── ExportError        a model that the asked format cannot hold
"""

MAX_CHARACTERS = 1_500  # of a message; the longest of our own has about a third of that


class GptlabError(Exception):
    """Anything outside gptlab that it cannot work with; the message is for the person who can mend it.

    What it quotes may come from a damaged file: it is printed on one line, and of a very long one both ends.
    """

    def __str__(self) -> str:
        line = " ".join(part.strip() for part in super().__str__().splitlines())
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        half = MAX_CHARACTERS // 2
        return line if len(line) <= MAX_CHARACTERS else f"{line[:half]} ... {line[-half:]}"


def brief(error: BaseException) -> str:
    """Return the kind of an error of others and the beginning of what it says, on one line."""
    said, _, _ = " ".join(str(error).split()).partition(
        " Set TORCH"
    )  # hints for the compiler's own developers
    return f"{type(error).__name__}: {said[:200]}"


class ConfigError(GptlabError):
    """A recipe, a flag, or a combination of them that cannot be."""


class DataError(GptlabError):
    """A source, tokenizer, shard or manifest that is missing, damaged or foreign."""


class TaskError(GptlabError):
    """An evaluation file or item that cannot be scored."""


class CheckpointError(GptlabError):
    """A checkpoint or model folder that is damaged or of another architecture."""


class TrainError(GptlabError):
    """A run that cannot go on."""


class ExportError(GptlabError):
    """A model that the asked format cannot hold."""
