"""Validates the manifests, offline, against the three newest minor versions of Kubernetes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

HERE: Final = Path(__file__).parent
BUILT: Final = ("base", "overlays/k3s")
_MINORS: Final = 3


def main() -> int:
    versions = newest_minors()
    faults = 0
    for name, text in [*built(), ("secrets.template.yaml", (HERE / "secrets.template.yaml").read_text())]:
        documents = list(yaml.safe_load_all(text))
        for version in versions:
            faults += sum(is_faulty(document, version, name) for document in documents)
        print(f"{name}: {len(documents)} resources, Kubernetes {', '.join(versions)}")
    return min(faults, 1)


def built() -> list[tuple[str, str]]:
    """Return what kustomize makes of each folder, and of the base with Coral devices and the closed loop."""
    kustomize = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]
    if shutil.which(kustomize[0]) is None:
        print("neither kubectl nor kustomize: the files of base as they are, and no overlay", file=sys.stderr)
        base = yaml.safe_load((HERE / "base/kustomization.yaml").read_text())
        return [(file, (HERE / "base" / file).read_text()) for file in base["resources"]]
    with_more = HERE / "build"
    with_more.mkdir(exist_ok=True)
    try:
        (with_more / "kustomization.yaml").write_text(
            "resources: [../base]\ncomponents: [../components/coral, ../components/loop]\n"
        )
        return [
            (folder, subprocess.run([*kustomize, HERE / folder], stdout=-1, text=True, check=True).stdout)
            for folder in (*BUILT, "build")
        ]
    finally:
        shutil.rmtree(with_more)


def newest_minors() -> list[str]:
    """Return the newest patch of each of the newest minor versions that have schemas."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    found = [re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)-local-strict", item.name) for item in folder.iterdir()]
    versions = sorted(tuple(map(int, match.groups())) for match in found if match)
    newest = {version[:2]: version for version in versions}
    return [".".join(map(str, version)) for version in sorted(newest.values())[-_MINORS:]]


def is_faulty(document: dict[str, Any], version: str, name: str) -> bool:
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        what = f"{document['kind']} {document['metadata']['name']}"
        print(f"{name}: {what}: {where}: {error.message} (Kubernetes {version})", file=sys.stderr)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
