"""The child that verifies and tries a bundle, in surroundings that are too small for it."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bundles import make_bundle, with_broken_model

from atoll_agent.children.examine import _contest
from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, Reason, TransientError
from atoll_infer.runtime import Looked, Runtime


@pytest.fixture
def examine(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run the child on a bundle, under limits that others have set; return what it says."""

    def run(bundle: Bundle, limits: dict[int, int]) -> list[dict[str, Any]]:
        content = bundle.pack()
        sha256 = hashlib.sha256(content).hexdigest()
        path = tmp_path / f"{sha256}.atoll"
        path.write_bytes(content)
        request = {"path": str(path), "sha256": sha256, "model": "wear", "release": 1, "units": {"x": None}}

        def limit() -> None:
            for what, most in limits.items():
                resource.setrlimit(what, (most, most))

        ended = subprocess.run(
            [sys.executable, "-m", "atoll_agent.children.examine"],
            input=json.dumps({**request, "is_shared": False, "key": "k", "preferred": None}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=limit,
        )
        return [json.loads(line) for line in ended.stdout.splitlines()]

    return run


def test_a_good_bundle_passes_within_our_own_limits(examine):
    begun, *rest = examine(make_bundle(release=1), {})

    assert begun == {"event": "begun", "is_cramped": False}
    assert [line["event"] for line in rest] == ["verified", "passed"]


def test_lower_limits_of_others_are_kept_and_told(examine):
    limits = {resource.RLIMIT_AS: 1 << 30, resource.RLIMIT_CPU: 50, resource.RLIMIT_CORE: 0}

    begun, *rest = examine(make_bundle(release=1), limits)

    assert begun["is_cramped"]
    assert [line["event"] for line in rest] == ["verified", "passed"]


def test_without_room_for_the_libraries_nothing_is_said_of_the_bundle(examine):
    assert examine(make_bundle(release=1), {resource.RLIMIT_AS: 60 << 20}) == []


def test_without_room_for_a_runtime_nothing_is_said_of_the_bundle(examine, tmp_path, monkeypatch):
    for package in ("tflite_runtime", "ai_edge_litert"):
        folder = tmp_path / "packages" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError('failed to map segment from shared object')")
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))

    *_, failed = examine(make_bundle(release=1), {})

    assert (failed["is_refusal"], failed["reason"]) == (False, "no_runtime")
    assert "failed to map segment" in failed["detail"]


@pytest.mark.parametrize(("is_cramped", "blamed"), [(True, TransientError), (False, BundleRejectedError)])
def test_a_model_that_gets_no_memory_is_to_blame_only_where_there_was_enough(is_cramped, blamed):
    def interpret(**_arguments):
        raise MemoryError

    found = [Looked("other", Runtime("other 1.0", interpret, None), "works")]
    request = {"key": "k", "preferred": None}

    with pytest.raises(blamed) as caught:
        _contest(make_bundle(), found, request, is_cramped=is_cramped)

    assert caught.value.reason is Reason.MODEL_UNREADABLE


def test_a_runtime_that_dies_as_it_is_imported_says_nothing_of_the_bundle(examine, tmp_path, monkeypatch):
    package = tmp_path / "packages" / "tflite_runtime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))

    assert examine(make_bundle(release=1), {}) == []


def test_a_model_that_crashes_the_interpreter_does_so_after_the_beginning(examine):
    begun, *rest = examine(with_broken_model(make_bundle(release=1)), {})

    assert not begun["is_cramped"]
    assert "passed" not in [line["event"] for line in rest]
