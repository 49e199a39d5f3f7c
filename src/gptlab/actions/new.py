"""A folder to start a project from: a recipe, a study and a README that says what to type."""

from pathlib import Path
from typing import Any

from gptlab import recipe, storage
from gptlab.errors import ConfigError
from gptlab.outputs import require_writable

RECIPE_TEMPLATE = """\
# {name}: what differs from gptlab's {base}, which `gptlab config recipe.toml` prints whole.
base = "{base}"

[data]
path = "data/{data}"
"""

STUDY_TEMPLATE = """\
# What a position encoding is worth: two variants, three seeds each, equal tokens.
base = "recipe.toml"
seeds = [1, 2, 3]

[budget]
tokens = {tokens}

[[variant]]
name = "as it is"

[[variant]]
name = "RoPE"
model = {{ position = "rope" }}
"""

README_TEMPLATE = """\
# {name}

    gptlab data prepare {source} data/{data}{flags}
    gptlab train recipe.toml --out runs/first
    gptlab sample runs/first --prompt "The"
    gptlab report runs/first --out report

`recipe.toml` holds what is yours; every key is in `gptlab train --help`. A killed run continues when the same command
is typed again.

To compare two models fairly, train each with several seeds on equal tokens:

    gptlab study study.toml --out comparison --dry-run    # what it will train, and for how long
    gptlab study study.toml --out comparison

`comparison/index.html` says which differences exceed the noise. Add a `[[variant]]` for each idea.

To hand a model in:

    gptlab check recipe.toml
    gptlab eval runs/first --task continuation
    gptlab export runs/first export
"""

SOURCES = {
    "bytes": ("python-docs", "python-docs", " --tokenizer bytes"),
    "gpt2": ("fineweb-edu", "english", " --max-tokens 100000000"),
}
"""By tokenizer: a source, the folder it goes to, and what `gptlab data prepare` needs besides."""


def new(folder: Path, base: str) -> dict[str, Any]:
    """Write a folder with a recipe over one of gptlab's, a study of it, and a README_TEMPLATE.

    Arguments as in `gptlab new`.

    Raises:
        ConfigError: there is no such recipe, or the folder is there already.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: exists already; choose a new folder")
    require_writable(folder, "NAME")
    config = recipe.load([Path(base)])
    source, data, flags = SOURCES["bytes" if config.model.n_embd < 256 else "gpt2"]
    steps = config.train.steps or 1000
    said = {
        "name": folder.name,
        "base": base,
        "source": source,
        "data": data,
        "flags": flags,
        "tokens": steps * config.train.batch_tokens,
    }
    folder.mkdir(parents=True)
    for name, text in {
        "recipe.toml": RECIPE_TEMPLATE,
        "study.toml": STUDY_TEMPLATE,
        "README.md": README_TEMPLATE,
    }.items():
        storage.replace_text(folder / name, text.format(**said))
    print(f"{folder}: recipe.toml, study.toml and README.md, which says how to begin")
    return {"folder": str(folder)}
