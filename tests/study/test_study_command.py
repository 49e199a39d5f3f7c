"""Studies from their file to their page, as a user runs them."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from gptlab.cli import main
from gptlab.errors import ConfigError, TrainError
from gptlab.study import runner
from gptlab.study.conduct import conduct

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_runs")]

KEYS = ["name", "n", "mean", "sd", "difference", "interval", "p", "verdict", "seeds_needed"]
CHANGING = ("hours", "tokens_per_s", "peak_bytes")
STUDY = """
base = "{recipe}"
seeds = [1, 2]

[budget]
tokens = 3072

[[variant]]
name = "GPT-2"

[[variant]]
name = "RoPE"
with = ["rope.toml"]
match = "parameters"
"""


@pytest.fixture(scope="module")
def study(tiny_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "rope.toml").write_text('[model]\nposition = "rope"\n')
    file = folder / "study.toml"
    file.write_text(STUDY.format(recipe=tiny_recipe))
    return file


@pytest.fixture(scope="module")
def whole(study):
    """A study that nobody interrupts, and what it returned."""
    out, facts = study.parent / "whole", study.parent / "facts.json"
    assert main(["study", str(study), "--out", str(out), "--json", str(facts)]) == 0
    return out, json.loads(facts.read_text())


def ended(out):
    """Return how each run ended, without times, speeds and memory."""
    found = {}
    for file in sorted((out / "trials").glob("*.json")):
        found[file.stem] = {
            key: value for key, value in json.loads(file.read_text()).items() if key not in CHANGING
        }
    return found


def test_the_facts_are_those_of_the_contract(whole):
    out, facts = whole
    assert facts["status"] == "finished"
    assert [variant["name"] for variant in facts["variants"]] == ["GPT-2", "RoPE"]
    for variant in facts["variants"]:
        assert list(variant) == KEYS
        assert variant["n"] == 2
        losses = [
            ended(out)[f"{'gpt_2' if variant['name'] == 'GPT-2' else 'rope'}-seed{seed}"]["loss"]
            for seed in (1, 2)
        ]
        assert variant["mean"] == pytest.approx(sum(losses) / 2)
    baseline, rope = facts["variants"]
    assert baseline["difference"] is baseline["verdict"] is None
    assert rope["difference"] == pytest.approx(rope["mean"] - baseline["mean"])
    assert rope["verdict"] in ("better", "worse", "not distinguishable")
    assert rope["interval"][0] < rope["difference"] < rope["interval"][1]
    assert facts["plan"]["runs"] == 4
    assert "continuation, margin" in facts["metrics"]


def test_variants_see_the_data_in_one_order_and_runs_can_be_repeated(whole, tmp_path):
    out, _ = whole
    seen = [(out / "recipes" / f"{name}-seed2.toml").read_text() for name in ("gpt_2", "rope")]
    assert all("seed = 2" in text for text in seen)
    main(["train", str(out / "recipes" / "rope-seed2.toml"), "--out", str(tmp_path / "again")])

    def losses(run):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if row["kind"] == "step"]

    assert losses(tmp_path / "again") == losses(out / "runs" / "rope-seed2")


def test_the_page_says_it_all(whole):
    out, facts = whole
    page = (out / "index.html").read_text()
    for text in (
        "GPT-2",
        "RoPE",
        "runs/rope-seed1",
        "gptlab study study.toml",
        "Dunnett",
        "How it was judged",
    ):
        assert text in page
    assert facts["sentences"][0].split(":")[0].replace("'", "&#x27;") in page


def test_a_finished_study_does_nothing_twice(study, whole):
    out, facts = whole
    before = ended(out)
    again = conduct(study, out)
    assert json.loads(json.dumps(again["variants"])) == facts["variants"]
    assert ended(out) == before


def test_a_study_that_changed_is_refused_by_name(study, whole, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(whole[0], out)
    file = study.with_name("other.toml")
    file.write_text(study.read_text().replace("[budget]", "[optim]\nlr = 5e-3\n\n[budget]"))
    with pytest.raises(ConfigError, match=r"variants.GPT-2.optim.lr was 0.01, is 0.005"):
        conduct(file, out)
    with pytest.raises(ConfigError, match="holds files, but no study"):
        conduct(study, study.parent)
    with pytest.raises(ConfigError, match="--only rope-seed9: the study has no such run"):
        conduct(study, out, only="rope-seed9")


def test_added_seeds_and_failed_runs_are_on_the_page(study, whole, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(whole[0], out)
    record = out / "trials" / "rope-seed1.json"
    record.write_text(json.dumps({"status": "failed", "reason": "the loss is beyond help"}))
    file = study.with_name("more.toml")
    file.write_text(study.read_text().replace("seeds = [1, 2]", "seeds = [1, 2, 3]"))
    facts = conduct(file, out)
    assert facts["failed"] == {"rope-seed1": "failed: the loss is beyond help"}
    assert [variant["n"] for variant in facts["variants"]] == [3, 2]
    page = (out / "index.html").read_text()
    assert "Seeds 3 were added after the study had begun" in page
    assert "beyond help; it is in no mean" in page
    assert conduct(file, out, retry=True)["failed"] == {}
    with pytest.raises(ConfigError, match=r"study.seeds was \[1, 2, 3\], is \[1, 2\]"):
        conduct(study, out)
    assert ended(out)["rope-seed1"] == ended(whole[0])["rope-seed1"]


def test_seeds_are_not_added_while_another_process_runs_the_study(study, whole, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(whole[0], out)
    before = (out / "plan.json").read_bytes()
    file = study.with_name("while.toml")
    file.write_text(study.read_text().replace("seeds = [1, 2]", "seeds = [1, 2, 3]"))
    with (
        runner.alone(out),
        pytest.raises(TrainError, match="another process is running this study; wait for it or stop it"),
    ):
        conduct(file, out)
    assert (out / "plan.json").read_bytes() == before
    assert not (out / ".lock").exists()


def test_one_seed_claims_nothing(study, tmp_path):
    file = study.with_name("one.toml")
    file.write_text(study.read_text().replace("seeds = [1, 2]", "seeds = [1]"))
    facts = conduct(file, tmp_path / "one", jobs=2)
    assert [variant["verdict"] for variant in facts["variants"]] == [None, None]
    assert "no difference is claimed" in (tmp_path / "one" / "index.html").read_text()


def test_a_search_gives_each_variant_its_rate(study, tmp_path, capsys):
    file = study.with_name("tuned.toml")
    text = study.read_text().replace("seeds = [1, 2]", 'seeds = [1]\ntune = [1e-6, "1x"]')
    file.write_text(text.replace("tokens = 3072", "tokens = 3072\ntune = 0.5"))
    conduct(file, tmp_path / "tuned", jobs=2)
    said = capsys.readouterr().out
    assert "GPT-2: learning rate 0.01" in said
    assert "lr = 0.01" in (tmp_path / "tuned" / "recipes" / "rope-seed1.toml").read_text()
    assert "steps = 6" in (tmp_path / "tuned" / "recipes" / "rope-lr1e-06.toml").read_text()


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.long)])
def test_a_killed_study_ends_as_one_left_alone(kills, study, whole, tmp_path):
    out, draw = tmp_path / "killed", random.Random(kills)
    words = [sys.executable, "-m", "gptlab", "study", str(study), "--out", str(out)]
    for number in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(6, 12))
        os.kill(process.pid, signal.SIGKILL if number % 2 == 0 else signal.SIGTERM)
        process.wait()
    assert subprocess.run(words, stdout=subprocess.DEVNULL, timeout=400).returncode == 0
    assert ended(out) == ended(whole[0])
    pages = [sentences((folder / "index.html").read_text()) for folder in (out, whole[0])]
    assert pages[0] == pages[1]


def until(happens, process):
    """Wait for something that a study does."""
    while not happens():
        assert process.poll() is None, "the study ended too soon"
        time.sleep(0.05)


def long_study(study, tmp_path):
    """Return a study whose runs last some seconds, and the command that does it."""
    file, out = study.with_name("long.toml"), tmp_path / "long"
    file.write_text(
        study.read_text().replace("tokens = 3072", "tokens = 30_000").replace("seeds = [1, 2]", "seeds = [1]")
    )
    return file, out, [sys.executable, "-m", "gptlab", "study", str(file), "--out", str(out)]


def training(out):
    """Say whether a run has begun its steps."""
    return any('"kind": "step"' in file.read_text() for file in out.glob("runs/*/metrics.jsonl"))


def test_a_study_that_is_asked_to_stop_saves_its_run_and_records_nothing(study, tmp_path):
    _, out, words = long_study(study, tmp_path)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: training(out), process)
    process.terminate()
    assert process.wait() == 75
    assert ended(out) == {}
    assert list(out.glob("runs/*/checkpoints/step_*"))
    assert all("Fatal" not in log.read_text() for log in out.glob("logs/*"))


def test_a_run_that_is_killed_goes_on_and_a_changed_study_stops_without_failures(study, tmp_path):
    file, out, words = long_study(study, tmp_path)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(lambda: training(out), process)
    subprocess.run(["pkill", "-KILL", "-f", f"{file} --out {out} --only gpt_2-seed1"], check=True)
    file.write_text(file.read_text().replace("30_000", "20_000"))  # read again by the process that goes on
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "gpt_2-seed1: did not begin" in said
    assert "budget.tokens was 30000, is 20000" in said
    assert ended(out) == {}
    file.write_text(file.read_text().replace("20_000", "30_000"))
    assert subprocess.run(words, stdout=subprocess.DEVNULL, timeout=300).returncode == 0
    assert {one["status"] for one in ended(out).values()} == {"finished"}


def test_a_variant_whose_search_fails_is_on_the_page_and_the_others_go_on(study, tmp_path):
    file = study.with_name("hopeless.toml")
    text = study.read_text().replace("seeds = [1, 2]", 'seeds = [1]\ntune = ["1x"]')
    file.write_text(text)
    out = tmp_path / "hopeless"
    assert conduct(file, out, jobs=2)["failed"] == {}
    for record in [out / "trials" / "rope-seed1.json", out / "index.html"]:
        record.unlink()
    (out / "trials" / "rope-lr0.01.json").write_text(
        json.dumps({"status": "diverged", "reason": "the loss is nan"})
    )
    facts = conduct(file, out)
    assert facts["failed"] == {
        "rope-lr0.01": "diverged: the loss is nan",
        "rope-seed1": "failed: no run of the search for its learning rate finished",
    }
    assert [variant["n"] for variant in facts["variants"]] == [1, 0]


def sentences(page):
    """Return the tables of verdicts and all paragraphs of a page."""
    body = page.partition("<h2>What can be said</h2>")[2].partition("<h2>Loss</h2>")[0] or page
    return re.sub(
        r"<script.*?</script>|<figure.*?</figure>|<noscript.*?</noscript>", "", body, flags=re.DOTALL
    ).partition("Cost")[0]


def test_an_array_of_jobs_does_the_runs_and_the_last_writes_the_page(study, whole, tmp_path, capsys):
    file = study.with_name("array.toml")
    file.write_text(study.read_text().replace("seeds = [1, 2]", "seeds = [1]"))
    out, programs = tmp_path / "array", tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", 'exec "$@"'), ("gptlab", f'exec {sys.executable} -m gptlab "$@"')):
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "1"}
    batch = tmp_path / "array.sbatch"
    words = ["slurm", str(file), "--out", str(out), "--hours", "1", "--gpus", "0", "--file", str(batch)]
    assert main(words) == 0
    text = batch.read_text()
    assert "#SBATCH --array=0-1\n" in text
    assert ".%A_%a.log" in text
    assert f"sbatch {batch}" in capsys.readouterr().out
    text = text.replace(shutil.which("gptlab") or "gptlab", str(programs / "gptlab"))
    for number in range(2):
        assert not (out / "index.html").exists()
        job = environment | {"SLURM_ARRAY_TASK_ID": str(number)}
        subprocess.run(["bash", "-c", text], env=job, check=True, stdout=subprocess.DEVNULL, timeout=300)
    assert ended(out) == {name: how for name, how in ended(whole[0]).items() if name.endswith("seed1")}
    assert (out / "index.html").exists()
    assert main([*words[:-4], "--gpus", "4"]) == 1
    assert "each run of a study is one process" in capsys.readouterr().err
