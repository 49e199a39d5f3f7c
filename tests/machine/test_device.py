"""Number formats that a processor supports, and those that it emulates."""

import os
import subprocess
import sys

import pytest
import torch

from gptlab.machine import device

CPU = torch.device("cpu")


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
