"""A child does not outlive the agent."""

from __future__ import annotations

import os
import subprocess
import sys

from atoll_agent.adapters.child_environment import child_environment

BECOMES_A_CHILD = (
    "from atoll_agent.children import be_a_child; be_a_child(); "
    "print(open('/proc/self/oom_score_adj').read())"
)


def test_a_child_whose_agent_has_ended_before_it_began_does_nothing():
    agent_that_ended = {**child_environment(), "ATOLL_AGENT_PID": str(os.getppid())}

    orphan = subprocess.run(
        [sys.executable, "-c", BECOMES_A_CHILD], env=agent_that_ended, capture_output=True, check=False
    )
    child = subprocess.run(
        [sys.executable, "-c", BECOMES_A_CHILD], env=child_environment(), capture_output=True, check=False
    )

    assert (orphan.returncode, orphan.stdout) == (1, b"")
    assert (child.returncode, child.stdout.strip()) == (0, b"1000")  # killed first where memory is short
