"""The chart library is what its authors published, and travels with its licence."""

import hashlib
from importlib.resources import files

import pytest

from gptlab.report.page import page

SHA256 = {
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
FOLDER = files("gptlab.report") / "uplot"


@pytest.mark.parametrize("name", SHA256)
def test_each_file_is_the_published_one(name):
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == SHA256[name]


def test_a_page_carries_the_library_and_its_licence():
    text = page("title", "lead", {})
    assert (FOLDER / "uPlot.iife.min.js").read_text() in text
    assert "Copyright (c) 2022 Leon Sorokin" in text
    assert "(v1.6.32)" in text
    assert "1.6.32" in (FOLDER / "README.md").read_text()
