"""GGUF files without llama.cpp: their contents and their refusals."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab import cli
from gptlab.data.bpe_file import BPEFile
from gptlab.data.tokenizer import Bytes
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.errors import ExportError
from gptlab.formats.gguf.write import export_gguf
from gptlab.formats.huggingface.classes.llama import Llama
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT

GPTs = Callable[..., GeneratingGPT]
Claim = Callable[..., ModelConfig]
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}


def test_what_the_package_gguf_reads(gpt: GPTs, tmp_path: Path) -> None:
    gguf: Any = pytest.importorskip("gguf")
    model = gpt()
    facts = export_gguf(model, Bytes(), tmp_path, name="tiny", dtype="float16", licence="mit", verify=False)
    assert facts == {
        "architecture": "gpt2",
        "file": str(tmp_path / "tiny-float16.gguf"),
        "dtype": "float16",
        "bytes": (tmp_path / "tiny-float16.gguf").stat().st_size,
        "max_diff": None,
    }
    reader = gguf.GGUFReader(tmp_path / "tiny-float16.gguf")
    assert reader.fields["general.name"].contents() == "tiny"
    assert reader.fields["general.license"].contents() == "mit"
    assert reader.fields["gpt2.context_length"].contents() == model.config.context
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.1.attn_norm.weight"].tensor_type.name == "F32"
    assert tensors["blk.1.ffn_up.weight"].tensor_type.name == "F16"
    held = torch.from_numpy(tensors["blk.1.ffn_up.weight"].data.copy())
    assert torch.equal(held, model.state_dict()["blocks.1.mlp.up.weight"].half())


def test_without_llama_cpp_nothing_is_compared(
    gpt: GPTs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert export_gguf(gpt(), Bytes(), tmp_path, name="m")["max_diff"] is None


def test_without_gguf_the_extra_is_named(gpt: GPTs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ExportError, match=re.escape('pip install "gptlab[gguf]"')):
        export_gguf(gpt(), Bytes(), tmp_path, name="m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("switches", "complaint"),
    [
        ({"mlp": "gelu_erf"}, "gpt2, needs mlp = gelu (not gelu_erf)"),
        (LLAMA | {"mlp": "relu2"}, "llama, needs mlp = swiglu (not relu2)"),
        ({"norm_order": "post"}, "gpt2, needs norm_order = pre (not post)"),
        (
            LLAMA | {"bias": False, "logit_soft_cap": 30.0},
            "llama, needs logit_soft_cap = no limit (not 30.0)",
        ),
        (LLAMA | {"position": "learned"}, "llama, needs position = rope (not learned)"),
        ({"position": "alibi"}, "gpt2, needs position = learned (not alibi)"),
    ],
)
def test_what_llama_cpp_does_not_run_is_refused(
    switches: dict[str, Any], complaint: str, gpt: GPTs, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=re.escape(complaint)):
        export_gguf(gpt(**switches), Bytes(), tmp_path / "m.gguf", name="m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("switch", "usual"), [("norm", "rmsnorm"), ("norm_order", "pre"), ("position", "rope"), ("mlp", "swiglu")]
)
def test_a_new_part_is_refused_by_name(
    switch: str, usual: str, gpt: GPTs, claim: Claim, tmp_path: Path
) -> None:
    model = gpt(**LLAMA)
    claim(model.config, **{switch: "new"})
    with pytest.raises(ExportError, match=rf"the nearest, llama, needs {switch} = {usual} \(not new\)"):
        export_gguf(model, Bytes(), tmp_path / "m.gguf", name="m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("switch", ["norm", "position"])
def test_no_part_gets_the_keys_of_another(
    switch: str, gpt: GPTs, claim: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    model = gpt(**LLAMA)
    claim(model.config, **{switch: "new"})
    monkeypatch.setattr(Llama, "holds", Llama.holds | {switch: ["new"]})  # its writer has not heard of it
    with pytest.raises(ExportError, match=rf"to gguf: {switch} = new: .*gguf/write.py has no keys for it"):
        export_gguf(model, Bytes(), tmp_path / "m.gguf", name="m")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_with_other_rules_is_refused(gpt: GPTs, tmp_path: Path) -> None:
    content = json.loads(train_tokenizer(["the river called to a tired horse"] * 9, 280).to_str())
    content["pre_tokenizer"]["use_regex"] = False
    other = BPEFile(json.dumps(content))
    with pytest.raises(ExportError, match="another rule for words than GPT-2's"):
        export_gguf(gpt(vocab_size=280), other, tmp_path / "m.gguf", name="m")


def test_a_file_that_cannot_be_written_leaves_the_old_one(gpt: GPTs, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="cannot be written"):
        export_gguf(gpt(), Bytes(), tmp_path / "file" / "m.gguf", name="m")
    (tmp_path / "m.gguf").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        export_gguf(gpt(), Bytes(), tmp_path / "m.gguf", name="m")
    assert (tmp_path / "file").read_text() == "mine"


def test_number_formats_are_for_gguf_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "run", str(tmp_path / "out"), "--dtype", "float16"]) == 1
    assert "--dtype float16: is for --to gguf" in capsys.readouterr().err
