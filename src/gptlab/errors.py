"""The errors gptlab raises on purpose; each prints as one line: the value, the rule, the remedy.

GptlabError            what the command line catches: one line, exit code 1, no traceback
├── ConfigError        a recipe, a flag, or a combination of them that is not possible
├── DataError          a source, tokenizer, shard or manifest that is missing, damaged or foreign
├── TaskError          an evaluation file or item that cannot be scored
├── CheckpointError    a checkpoint or model folder that is damaged or of another architecture
├── TrainError         a run that cannot continue
│   ├── RunInUseError  another process is training it
│   └── SilenceError   one of its machines is gone
└── ExportError        a model that the chosen format cannot hold
"""

import difflib
from collections.abc import Iterable

INTERRUPTED = 75
"""The exit code of a command that was stopped and that the same command continues: sysexits.h's EX_TEMPFAIL."""
MAX_CHARACTERS = 1_500  # of a message; the longest of our own is about a third of this


class GptlabError(Exception):
    """Anything outside gptlab that it cannot work with; the message is for the person who can fix it.

    The message may quote a damaged file, so it is printed on one line, and cut in the middle if it is very long.
    """

    continues = False
    """Whether the same command continues what the error interrupted; the exit code is then INTERRUPTED."""

    def __str__(self) -> str:
        line = " ".join(part.strip() for part in super().__str__().splitlines())
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        half = MAX_CHARACTERS // 2
        return line if len(line) <= MAX_CHARACTERS else f"{line[:half]} ... {line[-half:]}"


def brief(error: BaseException) -> str:
    """Return the type of another library's error and the beginning of its message, on one line."""
    # What follows are hints for developers of torch's compiler.
    said, _, _ = " ".join(str(error).split()).partition(" Set TORCH")
    return f"{type(error).__name__}: {said[:200]}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Suggest the closest of some names, as the end of a message; "" if none is close."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def no_such_key(where: str, key: str, known: Iterable[str]) -> str:
    """Return the message for an unknown key of a table, whose place is a prefix such as `model.`."""
    near = difflib.get_close_matches(key, known := list(known), 1, 0.5)
    remedy = f"did you mean {where}{near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{where}{key}: there is no such key; {remedy}"


class ConfigError(GptlabError):
    """A recipe, a flag, or a combination of them that is not possible."""


class DataError(GptlabError):
    """A source, tokenizer, shard or manifest that is missing, damaged or foreign."""


class TaskError(GptlabError):
    """An evaluation file or item that cannot be scored."""


class CheckpointError(GptlabError):
    """A checkpoint or model folder that is damaged or of another architecture."""


class TrainError(GptlabError):
    """A run that cannot continue."""


class RunInUseError(TrainError):
    """Another process is training the run."""


class SilenceError(TrainError):
    """A machine of the run, or the network to it, is gone."""


class ExportError(GptlabError):
    """A model that the chosen format cannot hold."""
