"""What test files share: the files beside the checkout, a tiny prepared folder, a tiny run."""

import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, however long a loaded machine takes over them.
settings.register_profile(
    "gptlab", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gptlab")

# The threads of several test processes would wait for each other; tiny models want no more than one each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test asks for more, those with nothing to do sleep: by default they spin on the core that another one needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SHARED = Path(__file__).resolve().parents[2] / "shared"
if (SHARED / "tiktoken_cache").is_dir():
    os.environ["TIKTOKEN_CACHE_DIR"] = str(SHARED / "tiktoken_cache")

TINY = """
[model]
n_layer = 2
n_head = 4
n_embd = 32
context = 32

[data]
path = "{data}"

[train]
steps = 12
batch_tokens = 256
dtype = "float32"
device = "cpu"

[optim]
lr = 1e-2

[schedule]
warmup_steps = 2

[eval]
every_steps = 4
val_tokens = 2048
tasks = ["continuation"]
limit = 7
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no worker is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if item.get_closest_marker("mps") is not None:
        import torch

        if not torch.backends.mps.is_available():
            pytest.skip("needs an Apple GPU (MPS)")
    if "shared" in getattr(item, "fixturenames", ()):
        item.user_properties.append(("shared", True))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests had the files beside the checkout; without them they skip."""
    reports = terminalreporter.stats.get("passed", [])
    count = sum(report.when == "call" and ("shared", True) in report.user_properties for report in reports)
    terminalreporter.write_line(f"{count} tests used ../shared")


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Find a file or folder that lies beside the checkout, or skip for want of it."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs ../shared/{name}")
        return SHARED / name

    return find


def english(seed: int, sentences: int) -> str:
    """Write text with the regularities of English that a tiny model can learn, and nobody's copyright."""
    draw = random.Random(seed)
    nouns = ["the old miller", "a grey heron", "the north wind", "my sister", "the river", "a tired horse"]
    verbs = ["followed", "remembered", "was afraid of", "carried home", "never saw", "called to"]
    tails = ["in the early morning", "before the rain came", "without a word", "beyond the hill", "again"]
    lines = (
        f"{draw.choice(nouns).capitalize()} {draw.choice(verbs)} {draw.choice(nouns)} {draw.choice(tails)}."
        for _ in range(sentences)
    )
    return " ".join(lines)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of bytes: about 50,000 tokens to train on and 6,000 held out."""
    from gptlab.data.prepare.prepare import prepare

    folder = tmp_path_factory.mktemp("tiny_data")
    source = folder / "english.jsonl"
    source.write_text("".join(json.dumps({"text": english(seed, 10)}) + "\n" for seed in range(96)))
    prepare(source, folder / "bytes", tokenizer="bytes", val_tokens=6000, workers=1)
    return folder / "bytes"


@pytest.fixture(scope="session")
def tiny_recipe(tiny_data: Path) -> Path:
    """A recipe whose run takes about a second: 12 steps of 8 sequences, evaluations every four."""
    recipe = tiny_data.parent / "tiny.toml"
    recipe.write_text(TINY.format(data=tiny_data))
    return recipe


@contextmanager
def _torch_settings() -> Iterator[None]:
    import torch

    deterministic = torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    inductor = sys.modules.get("torch._inductor.config")
    compiler = inductor.deterministic if inductor is not None else None
    with torch.random.fork_rng(devices=[]):
        yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_float32_matmul_precision(precision)
    if inductor is not None:
        inductor.deterministic = compiler


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """Put back what a run sets for its whole process."""
    with _torch_settings():
        yield


@pytest.fixture(scope="session")
def finished_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe, called `run`; tests read it only, or copy it."""
    from gptlab.actions import train as run

    out = tmp_path_factory.mktemp("finished") / "run"
    with _torch_settings():
        run.train([tiny_recipe], out, {})
    return out


@pytest.fixture
def train(tiny_recipe: Path, torch_settings: None) -> Callable[..., dict[str, Any]]:
    """Train the tiny recipe in this process: `train(out, {"train": {"steps": 3}}, max_hours=1)`."""
    from gptlab.actions import train as run

    def run_tiny(
        out: Path, flags: Mapping[str, Any] | None = None, max_hours: float | None = None
    ) -> dict[str, Any]:
        return run.train([tiny_recipe], out, flags or {}, max_hours=max_hours)

    return run_tiny
