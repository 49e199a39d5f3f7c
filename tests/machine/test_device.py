"""The device that a name stands for, the number formats that it supports, and those that it emulates."""

import os
import subprocess
import sys

import pytest
import torch

from gptlab.errors import ConfigError
from gptlab.machine import device, memory, random_states

CPU = torch.device("cpu")
MPS = torch.device("mps")


@pytest.fixture
def takes(monkeypatch):
    """Make a product in a 16-bit format take this many times as long as in float32."""

    def factor(times):
        monkeypatch.setattr(device, "_seconds", lambda dtype: 1.0 if dtype == torch.float32 else times)

    return factor


def test_a_format_that_is_emulated_is_warned_of_with_its_factor(takes, capsys):
    takes(41.3)
    device.warn_if_emulated("bfloat16", CPU, "--dtype")
    assert capsys.readouterr().err == (
        "warning: --dtype bfloat16: this processor emulates it, and a product takes 41 times as long as in float32 "
        "(measured just now); use --dtype float32\n"
    )


@pytest.mark.parametrize(
    ("name", "where", "times"),
    [("float32", "cpu", 99), ("tf32", "cpu", 99), ("bfloat16", "cuda", 99), ("bfloat16", "cpu", 2)],
)
def test_one_that_is_not_is_not(takes, capsys, name, where, times):
    takes(times)
    device.warn_if_emulated(name, torch.device(where), "--dtype")
    assert capsys.readouterr().err == ""


def test_on_a_processor_of_avx2_bfloat16_is_emulated():
    """Most laptops have AVX2 only; an environment variable limits any processor to it."""
    only = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    asked = (
        "import torch; from gptlab.machine.device import warn_if_emulated; "
        "warn_if_emulated('bfloat16', torch.device('cpu'), '--dtype')"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], env=os.environ | only, capture_output=True, text=True, check=True
    )
    if torch.backends.mkldnn.is_available() and "x86" in os.uname().machine:
        assert "this processor emulates it" in done.stderr


@pytest.mark.parametrize(("slower", "chosen"), [(0.5, "bfloat16"), (1.1, "bfloat16"), (1.9, "float32")])
def test_a_format_that_is_slower_is_not_chosen_for_training(monkeypatch, slower, chosen):
    times = {torch.bfloat16: slower, torch.float32: 1.0}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(device, "_seconds", times.__getitem__)
    device._pays.cache_clear()
    cpu = torch.device("cpu")
    assert device.choose_dtype("auto", cpu) == chosen
    assert device.choose_dtype("bfloat16", cpu) == device.supported_dtype(cpu) == "bfloat16"
    device._pays.cache_clear()


def test_without_instructions_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(device, "_seconds", None)
    device._pays.cache_clear()
    assert device.choose_dtype("auto", torch.device("cpu")) == "float32"


@pytest.fixture
def there(monkeypatch):
    """Let torch find these devices and no others."""

    def found(*kinds):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)

    return found


@pytest.mark.parametrize(
    ("kinds", "name", "chosen"),
    [
        (("cuda", "mps"), "auto", "cuda"),
        (("mps",), "auto", "mps"),
        ((), "auto", "cpu"),
        (("mps",), "mps", "mps"),
        (("cuda", "mps"), "mps", "mps"),
        (("cuda", "mps"), "cpu", "cpu"),
        (("cuda",), "mps", "torch finds no Apple GPU"),
        (("mps",), "cuda", "torch finds no CUDA device"),
    ],
)
def test_the_device_is_the_best_that_is_there(there, kinds, name, chosen):
    there(*kinds)
    if "torch" in chosen:
        with pytest.raises(ConfigError, match=rf"train\.device = {name}: {chosen}"):
            device.choose_device(name)
    else:
        assert device.choose_device(name).type == chosen


def test_several_processes_do_not_share_apples_gpu(there, monkeypatch):
    there("mps")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device.choose_device("auto") == CPU
    with pytest.raises(ConfigError, match=r"train\.device = mps: takes one process"):
        device.choose_device("mps")


@pytest.mark.parametrize(("macos", "chosen"), [((14, 0), "bfloat16"), ((13, 3), "float16")])
def test_apples_gpu_has_bfloat16_from_macos_14_on(monkeypatch, macos, chosen):
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: macos >= version)
    assert device.choose_dtype("auto", MPS) == device.supported_dtype(MPS) == chosen
    assert device.choose_dtype("float32", MPS) == "float32"


def test_what_torch_says_of_apples_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M9")
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 2**30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3 * 2**30)
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(1))
    device.synchronise(MPS)
    assert device.describe(MPS)["device"] == "Apple M9"
    assert device.peak_flops(MPS, "bfloat16") is None
    assert memory.total_bytes("mps") == 12 * 2**30
    assert memory.highest_bytes(MPS) == 3 * 2**30
    assert waited == [1]
    device.synchronise(CPU)


def test_random_states_of_apples_gpu_come_back_and_those_of_another_are_left(monkeypatch):
    kept = [torch.tensor([1, 2, 255], dtype=torch.uint8)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda device: kept[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, device: kept.append(state))
    state = random_states.random_state(MPS)
    random_states.restore_random_state(state, MPS)
    assert torch.equal(kept[1], kept[0])
    random_states.restore_random_state(state, CPU)
    random_states.restore_random_state(random_states.random_state(CPU), MPS)
    assert len(kept) == 2
