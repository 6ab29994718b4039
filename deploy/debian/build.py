"""Builds the Debian package of the agent, with a virtual environment of its own: `make deb`.

Nothing of the target runs: wheels are chosen by platform and laid out, so that the package for arm64 is
built on any machine. The Python that runs this decides which Debian it is for: 3.11 is Debian 12, and
3.13 is Debian 13. The same commit and the same wheels give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from email.utils import formatdate
from pathlib import Path
from typing import Final

from argparse_manpage.manpage import Manpage

from atoll_agent import cli
from atoll_link.command_line import build_parser

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
DEBIAN: Final = {"3.11": 12, "3.13": 13}
GLIBC: Final = {12: 36, 13: 41}
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
WITH_NOTIFY_RELOAD: Final = 13
SCRIPT: Final = """\
#!/usr/lib/atoll/bin/python3 -I
import sys

from atoll_agent.cli import main

sys.exit(main())
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", choices=sorted(MACHINES), default="amd64")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    if PYTHON not in DEBIAN:
        print(f"Python {PYTHON} is that of no supported Debian: use 3.11 or 3.13", file=sys.stderr)
        return 1
    os.environ["SOURCE_DATE_EPOCH"] = epoch()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="atoll-deb-") as folder:
        tree = Path(folder) / "tree"
        put_environment(tree, MACHINES[arguments.architecture], Path(folder) / "wheels")
        put_files(tree)
        package = put_together(tree, arguments.architecture, arguments.out)
    print(f"{package} ({package.stat().st_size / 1e6:.1f} MB)")
    return 0


def epoch() -> str:
    """Return the time of the commit, as which every file counts."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return given or run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()


def put_environment(tree: Path, machine: str, wheels: Path) -> None:
    """Lay out the virtual environment in /usr/lib/atoll."""
    home = tree / "usr/lib/atoll"
    packages = home / f"lib/python{PYTHON}/site-packages"
    packages.mkdir(parents=True)
    run(*PIP, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT)
    [ours] = wheels.glob("atoll-*.whl")
    glibc = GLIBC[DEBIAN[PYTHON]]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, 16, -1)]
    platforms += [f"manylinux2014_{machine}", f"linux_{machine}"]
    run(
        *PIP,
        "install",
        "--no-compile",
        "--only-binary=:all:",
        "--python-version",
        PYTHON,
        *[word for platform in platforms for word in ("--platform", platform)],
        "--constraint",
        ROOT / "constraints.txt",
        "--target",
        packages,
        ours,
    )
    for name in ("bin", "share", "lib"):  # scripts and shared data, which have other places here
        shutil.rmtree(packages / name, ignore_errors=True)
    for record in [*packages.glob("*.dist-info/RECORD"), *packages.glob("*.dist-info/direct_url.json")]:
        record.unlink()  # dpkg knows what is installed
    for tests in [path for path in packages.rglob("tests") if path.is_dir()]:
        shutil.rmtree(tests, ignore_errors=True)
    for stray in [*packages.rglob(".gitignore"), *packages.rglob("*.sh")]:
        stray.unlink()
    for path in packages.rglob("*"):
        # Some wheels come with odd permissions.
        path.chmod(0o755 if path.is_dir() else 0o644)
    compile_all = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run(*compile_all, "-s", tree, "-p", "/", packages)
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to(f"../../../bin/python{PYTHON}")
    put(home / "bin/atoll-agent", SCRIPT, 0o755)
    put(home / "pyvenv.cfg", f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n")
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/atoll-agent").symlink_to("../lib/atoll/bin/atoll-agent")


def put_files(tree: Path) -> None:
    """Lay out all else."""
    host = ROOT / "deploy/host"
    files = {
        ROOT / "systemd/atoll-agent.service": "usr/lib/systemd/system/atoll-agent.service",
        host / "sysusers-agent.conf": "usr/lib/sysusers.d/atoll-agent.conf",
        host / "coral.rules": "usr/lib/udev/rules.d/60-atoll-coral.rules",
        ROOT / "config/agent.toml": "usr/share/atoll/agent.toml",
        HERE / "default": "etc/default/atoll-agent",
        HERE / "copyright": "usr/share/doc/atoll-agent/copyright",
        HERE / "lintian-overrides": "usr/share/lintian/overrides/atoll-agent",
    }
    if DEBIAN[PYTHON] >= WITH_NOTIFY_RELOAD:
        files[host / "notify-reload.conf"] = "usr/lib/systemd/system/atoll-agent.service.d/notify-reload.conf"
    for source, target in files.items():
        put(tree / target, source.read_text())
    date = formatdate(int(os.environ["SOURCE_DATE_EPOCH"]))
    head = f"atoll-agent ({version()}) stable; urgency=medium"
    entry = f"{head}\n\n  * See CHANGELOG.md.\n\n -- {maintainer()}  {date}\n"
    packed = {
        "doc/atoll-agent/changelog": entry,
        "doc/atoll-agent/CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text(),
        "man/man1/atoll-agent.1": man_page(),
    }
    for name, text in packed.items():
        path = tree / f"usr/share/{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def man_page() -> str:
    """Return the manual of all commands, made of their parsers."""
    parser, _ = build_parser("atoll-agent", cli.__doc__ or "", cli.COMMANDS, cli.COMMANDS)
    page = Manpage(parser)
    page.description = cli.__doc__.partition(": ")[2].rstrip(".\n") if cli.__doc__ else ""
    page.source, page.manual = f"atoll {version()}", "atoll"
    return str(page)


def put_together(tree: Path, architecture: str, out: Path) -> Path:
    """Write the package and return its path."""
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file())
    major, minor = PYTHON.split(".")
    control = (HERE / "control").read_text()
    control = control.format(
        version=version(),
        maintainer=maintainer(),
        architecture=architecture,
        installed_kb=size // 1024,
        python=PYTHON,
        next_python=f"{major}.{int(minor) + 1}",
    )
    put(tree / "DEBIAN/control", control)
    put(tree / "DEBIAN/conffiles", "/etc/default/atoll-agent\n")
    for name in ("postinst", "prerm", "postrm"):
        put(tree / "DEBIAN" / name, (HERE / name).read_text(), 0o755)
    for folder in [tree, *(path for path in tree.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    package = out / f"atoll-agent_{version()}_{architecture}.deb"
    part = package.with_suffix(".part")
    run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, part)
    return part.replace(package)


def version() -> str:
    """Return the version of the package: the same one for another Debian is another package."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return f"{ours}+deb{DEBIAN[PYTHON]}"


def maintainer() -> str:
    """Return who makes the package, as Debian's tools are told; by default who made the commit."""
    name, address = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    if not (name and address):
        told = run("git", "-C", ROOT, "log", "-1", "--format=%an%n%ae").splitlines()
        name, address = name or told[0], address or told[1]
    return f"{name} <{address}>"


def put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input")


def run(*words: object) -> str:
    ended = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True, check=True)
    return ended.stdout


if __name__ == "__main__":
    sys.exit(main())
