"""The errors gptlab raises on purpose; each prints as one line: the value, the rule, the remedy.

GptlabError            what the command line catches: one line, exit code 1, no traceback
├── ConfigError        a recipe, a flag, or a combination of them that cannot be
├── DataError          a source, tokenizer, shard or manifest that is missing, damaged or foreign
├── TaskError          an evaluation file or item that cannot be scored
├── CheckpointError    a checkpoint or model folder that is damaged or of another architecture
├── TrainError         a run that cannot go on
└── ExportError        a model that the asked format cannot hold
"""


class GptlabError(Exception):
    """Anything outside gptlab that it cannot work with; the message is for the person who can mend it."""


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
