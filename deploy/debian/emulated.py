"""Installs the package for arm64 in an emulated Debian 12, and lets it answer one reading: `make test-arm64`.

Needs root, and apt install debootstrap qemu-user-static binfmt-support. It says nothing about speed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from booted import put
from support.bundles import make_bundle

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = "python3,systemd,systemd-sysv,init-system-helpers"
SETTINGS: Final = """\
[agent]
id = "pi"
site = "site"
clock = "trusted"
[broker]
host = "127.0.0.1"
[[stream]]
name = "press"
values = { x = {} }
[[model]]
name = "wear"
stream = "press"
"""
SAYS: Final = 7.0
WITHIN: Final = 0.2
"""Two steps of the model's int8 output."""
CHECK: Final = ("atoll-agent", "check", "--settings", "/etc/atoll/agent.toml")
SAMPLE: Final = ("--sample", "/srv/reading.json", "--topic", "atoll/v1/site/press-1/reading/press")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--roots", type=Path, default=ROOT / "build/roots", help="where the Debian is kept")
    parser.add_argument("--packages", type=Path, default=ROOT / "dist", help="what `make deb` has made")
    given = parser.parse_args()
    found = sorted(given.packages.glob("atoll-agent_*+deb12_arm64.deb"))
    if not found:
        print("no package: make deb PYTHON=python3.11 ARCHITECTURE=arm64", file=sys.stderr)
        return 1
    source = given.roots / "arm64"
    if not (source / "usr/bin/python3").exists():
        given.roots.mkdir(parents=True, exist_ok=True)
        words = [
            "debootstrap",
            "--arch=arm64",
            "--variant=minbase",
            f"--include={PACKAGES}",
            "bookworm",
            source,
        ]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=3600)
    with tempfile.TemporaryDirectory(prefix="atoll-arm64-", dir="/var/tmp") as name:
        root = Path(name) / "root"
        subprocess.run(["cp", "-a", source, root], check=True, timeout=600)
        return try_out(root, found[-1])


def try_out(root: Path, package: Path) -> int:
    """Install, check, answer; print what was seen."""
    print(f"machine   {within(root, 'uname', '-m')}")
    (root / "srv" / package.name).write_bytes(package.read_bytes())
    started_s = time.monotonic()
    within(root, "dpkg", "-i", f"/srv/{package.name}")
    took_s = time.monotonic() - started_s
    print(f"installed {package.name} ({package.stat().st_size / 1e6:.1f} MB) in {took_s:.0f} s")
    put(root / "etc/atoll/agent.toml", SETTINGS)
    print(within(root, *CHECK))
    (root / "srv/wear-1.atoll").write_bytes(make_bundle(release=1, file="linear_int8").pack())
    put(root / "srv/reading.json", '{"time_ms":1730794500000,"values":{"x":3}}')
    told = within(root, *CHECK, *SAMPLE, "--bundle", "/srv/wear-1.atoll")
    print(told)
    within(root, "dpkg", "--purge", "atoll-agent")
    found = re.search(r"says +(-?[\d.]+)", told)
    if found is None or abs(float(found[1]) - SAYS) > WITHIN:
        print(f"it does not say {SAYS:g}, within {WITHIN:g}", file=sys.stderr)
        return 1
    return 0


def within(root: Path, *words: str) -> str:
    ended = subprocess.run(["chroot", root, *words], check=False, capture_output=True, text=True, timeout=900)
    if ended.returncode:
        raise RuntimeError(f"{words}: {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
