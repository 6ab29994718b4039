"""Payloads of real devices: every value, unit and time that the examples' index expects."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
DATA = os.environ.get("ATOLL_DATA")

spec = importlib.util.spec_from_file_location("payloads", DOCS / "payloads.py")
assert spec is not None
payloads = importlib.util.module_from_spec(spec)
sys.modules["payloads"] = payloads  # dataclasses look their module up
spec.loader.exec_module(payloads)

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(DATA is None, reason="ATOLL_DATA is not set: no payloads of real devices"),
]


@pytest.mark.parametrize("recipe", payloads.recipes(), ids=lambda recipe: recipe["name"])
def test_every_expected_value_is_read(recipe):
    found = payloads.outcomes(recipe, Path(DATA) / "payloads")

    assert found
    assert [outcome for outcome in found if outcome.faults] == []


def test_no_example_is_left_out():
    there = {file.name for file in (Path(DATA) / "payloads").iterdir()} - {"README.md", "index.json"}

    assert {recipe["name"] for recipe in payloads.recipes()} == there


def test_the_page_of_payloads_is_up_to_date():
    page = (DOCS / "references" / "payloads.md").read_text()

    assert page == payloads.payloads_page(Path(DATA) / "payloads"), "run: make docs, with ATOLL_DATA set"
