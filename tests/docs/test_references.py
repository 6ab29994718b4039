"""The reference pages say what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from atoll_contract.errors import Reason

ROOT = Path(__file__).parents[2]
REFERENCES = ROOT / "docs" / "references"
PACKAGES = ("contract", "runtime", "agent", "trainer", "firmware-sim")
LEVELS = {"debug", "info", "warning", "error", "exception"}


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "topics.md", "messages.md", "bundle.md"])
def test_a_generated_page_is_up_to_date(name):
    assert (REFERENCES / name).read_text() == generator().PAGES[name](), "run: make docs"


def first_column(page: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", (REFERENCES / page).read_text(), re.MULTILINE))


def test_every_reason_code_is_explained():
    assert first_column("reasons.md") == {reason.value for reason in Reason}


def test_every_log_event_is_listed_and_every_listed_event_is_logged():
    logged = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in LEVELS
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                    and re.fullmatch(r"[a-z_]+\.[a-z_]+", str(node.args[0].value))
                ):
                    logged.add(node.args[0].value)

    assert first_column("events.md") == logged
