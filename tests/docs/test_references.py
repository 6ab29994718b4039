"""The reference pages say what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import generate

from atoll_contract.errors import Reason

ROOT = Path(__file__).parents[2]
REFERENCES = ROOT / "docs" / "references"
PACKAGES = ("contract", "runtime", "agent", "trainer", "firmware-sim", "dashboard")
LEVELS = {"debug", "info", "warning", "error", "exception"}


def test_every_made_file_is_up_to_date_and_no_other_lies_beside_them():
    made = generate.files()
    folders = {path.parent for path in made} - {REFERENCES}

    assert [path.name for path, text in made.items() if path.read_text() != text] == [], "run: make docs"
    assert {path for folder in folders for path in folder.iterdir()} == {
        path for path in made if path.parent in folders
    }


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
