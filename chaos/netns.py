"""A network namespace for one program, on a line that can be made bad: loss, rate, partition, no carrier.

Needs root, `ip`, `tc` and `nft`. The kernel needs no netem: loss is a match of nftables, rate a token bucket.
"""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import Self


class Namespace:
    """Made and removed as a context manager; this machine is the other end of its line.

    Args:
        name: Of the namespace, and of its end of the line; short.
        number: Which network of 10.77.0.0/16 it is in.
    """

    def __init__(self, name: str, number: int) -> None:
        self._name = f"atoll-{name}"
        self._outer = f"at-{name}"
        self.host = f"10.77.{number}.1"
        """This machine, as seen from within."""
        self._address = f"10.77.{number}.2"

    @property
    def prefix(self) -> list[str]:
        """What makes a command run within."""
        return ["ip", "netns", "exec", self._name]

    def __enter__(self) -> Self:
        self._remove()  # what a run that was killed has left
        _run("ip", "netns", "add", self._name)
        _run("ip", "link", "add", self._outer, "type", "veth", "peer", "name", "line", "netns", self._name)
        _run("ip", "addr", "add", f"{self.host}/24", "dev", self._outer)
        _run("ip", "link", "set", self._outer, "up")
        self._within("ip", "addr", "add", f"{self._address}/24", "dev", "line")
        self._within("ip", "link", "set", "line", "up")
        self._within("ip", "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def lose(self, percent: int) -> None:
        """Drop so many of the packets, both ways; all of them at 100."""
        match = [] if percent >= 100 else ["numgen", "random", "mod", "100", "<", str(percent)]
        self.heal_loss()
        self._within("nft", "add", "table", "ip", "chaos")
        for hook in ("input", "output"):
            chain = ["ip", "chaos", hook]
            rule = f"{{ type filter hook {hook} priority 0 ; }}"
            self._within("nft", "add", "chain", *chain, rule)
            self._within("nft", "add", "rule", *chain, *match, "counter", "drop")

    def heal_loss(self) -> None:
        """Drop nothing."""
        subprocess.run(
            [*self.prefix, "nft", "delete", "table", "ip", "chaos"],
            check=False,
            capture_output=True,
            timeout=20,
        )

    def throttle(self, kbit_per_s: int) -> None:
        """Let so much through, both ways."""
        bucket = ["root", "tbf", "rate", f"{kbit_per_s}kbit", "burst", "4kb", "latency", "400ms"]
        _run("tc", "qdisc", "replace", "dev", self._outer, *bucket)
        self._within("tc", "qdisc", "replace", "dev", "line", *bucket)

    def heal_rate(self) -> None:
        """Let everything through."""
        for prefix, device in (([], self._outer), (self.prefix, "line")):
            subprocess.run(
                [*prefix, "tc", "qdisc", "del", "dev", device, "root"],
                check=False,
                capture_output=True,
                timeout=20,
            )

    def unplug(self) -> None:
        """Take the carrier away."""
        _run("ip", "link", "set", self._outer, "down")

    def plug(self) -> None:
        """Bring it back."""
        _run("ip", "link", "set", self._outer, "up")

    def _within(self, *words: str) -> None:
        _run(*self.prefix, *words)

    def _remove(self) -> None:
        for words in (["ip", "link", "del", self._outer], ["ip", "netns", "del", self._name]):
            subprocess.run(words, check=False, capture_output=True, timeout=20)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=20)
