"""The reset of a USB stick, which may never return: it runs in a child with a deadline."""

from __future__ import annotations

import os
import subprocess

from atoll_agent.adapters.edgetpu_reset import UsbReset


def test_a_reset_that_does_not_return_holds_nobody_up(tmp_path):
    node = tmp_path / "004"
    os.mkfifo(node)  # to open it for writing takes until somebody reads
    reset = UsbReset(timeout_s=1.0)

    assert reset.run(node) == f"{node} cannot be reset: not within 1 s"
    assert reset._stuck is None, "its child has ended, so another attempt may be made"


def test_beside_a_reset_that_cannot_be_ended_no_other_is_begun(tmp_path):
    reset = UsbReset()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, text=True) as reset._stuck:
        assert reset.run(tmp_path / "004").endswith("the reset before has not returned yet")

        reset._stuck.kill()
        reset._stuck.wait(10.0)
        assert reset.run(tmp_path / "004").endswith("cannot be reset: No such file or directory")
