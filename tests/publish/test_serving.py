"""The servers of docs/serving.md, started as it says, compared with `gptlab sample`."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gptlab import cli
from gptlab.loading import load
from gptlab.sample import sample_text

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
PROMPT, TOKENS = "The river ", 20


def documented(program: str) -> list[str]:
    """Return the words of the line that starts a server."""
    (line,) = (line for line in DOCS.read_text().splitlines() if line.startswith(f"    {program} "))
    return shlex.split(line)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def served(words: list[str], path: str, tmp_path: Path) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """Start a server and yield a function that queries it; `path` answers as soon as it is up."""
    port = words[words.index("--port") + 1]
    script = Path(sys.executable).with_name(words[0])
    program = [str(script)] if script.exists() else [sys.executable]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    log = tmp_path / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*program, *words[1:]], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=10).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)

        def ask(path: str, body: dict[str, Any]) -> Any:
            request = urllib.request.Request(
                f"http://localhost:{port}{path}",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)

        yield ask
    finally:
        server.kill()
        server.wait()


def completion(ask: Callable[[str, dict[str, Any]], Any], model: Path, **more: float) -> str:
    body = {"model": str(model), "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, **more}
    return ask("/v1/completions", body)["choices"][0]["text"]


def sampled(run: Path) -> str:
    network, tokenizer = load(run, "cpu")
    return sample_text(network, tokenizer, PROMPT, max_tokens=TOKENS, temperature=0)[0]


def test_transformers_serve(finished_run: Path, tmp_path: Path) -> None:
    for package in ("transformers", "fastapi", "uvicorn", "openai"):
        pytest.importorskip(package)
    folder = tmp_path / "mine"
    assert cli.main(["export", str(finished_run), str(folder), "--no-verify"]) == 0
    words = documented("transformers serve")
    words[words.index("export/mine")], words[words.index("8000")] = str(folder), free_port()
    with served(words, "/health", tmp_path) as ask:
        assert completion(ask, folder) == sampled(finished_run)
        chat = {"model": str(folder), "messages": [{"role": "user", "content": PROMPT}]}
        with pytest.raises(urllib.error.HTTPError):  # there is no template, as the page says
            ask("/v1/chat/completions", chat)


@pytest.mark.slow
def test_transformers_serve_with_the_template_of_the_page(finished_run: Path, tmp_path: Path) -> None:
    for package in ("transformers", "fastapi", "uvicorn", "openai"):
        pytest.importorskip(package)
    folder = tmp_path / "mine"
    assert cli.main(["export", str(finished_run), str(folder), "--no-verify"]) == 0
    (template,) = re.findall(r"^    (\{%.*%\})$", DOCS.read_text(), re.MULTILINE)
    (folder / "chat_template.jinja").write_text(template)
    words = documented("transformers serve")
    words[words.index("export/mine")], words[words.index("8000")] = str(folder), free_port()
    message = {"role": "user", "content": PROMPT}
    chat = {"model": str(folder), "messages": [message], "max_tokens": TOKENS, "temperature": 0}
    with served(words, "/health", tmp_path) as ask:
        answer = ask("/v1/chat/completions", chat)["choices"][0]["message"]["content"]
        assert answer == sampled(finished_run)


def test_llama_cpps_server(finished_run: Path, tmp_path: Path) -> None:
    for package in (
        "gguf",
        "llama_cpp",
        "fastapi",
        "sse_starlette",
        "starlette_context",
        "pydantic_settings",
    ):
        pytest.importorskip(package)
    file = tmp_path / "mine.gguf"
    assert cli.main(["export", str(finished_run), str(file), "--to", "gguf"]) == 0
    words = documented("python -m llama_cpp.server")
    words[words.index("export/mine.gguf")], words[words.index("8000")] = str(file), free_port()
    words[words.index("1024")] = "32"
    with served(words, "/v1/models", tmp_path) as ask:
        assert completion(ask, file, repeat_penalty=1.0) == sampled(finished_run)
