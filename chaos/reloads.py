"""An agent reads other settings again and again while readings come: `make chaos-reload`.

Each reading must be answered once: none lost, none twice.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from support import brokers
from support.agents import AgentProcess, TrainerHome
from support.bundles import make_bundle
from support.reloads import MAPPINGS, WRONG_AT, reload_under_load, stream_text
from support.site import Site
from support.spy import Spy


def main() -> int:
    """Run it and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1000.0, help="readings per second")
    parser.add_argument("--step", type=float, default=1.0, help="seconds of readings between two reloads")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, brokers.mosquitto(Path(name) / "broker") as broker:
        folder = Path(name)
        trainer = TrainerHome(folder / "trainer", broker.port)
        streams = stream_text(*MAPPINGS[0])
        agent = AgentProcess(folder / "agent", broker.port, trainer.home / "root.json", streams=streams)
        with Spy(broker.port, "atoll/v1/site/pi/#") as spy:
            site = Site(broker, trainer, agent, spy)
            trainer.publish(make_bundle(release=1))
            agent.start()
            try:
                site.champion(1)
                site.wait_lane()
                outcome = reload_under_load(agent, broker.port, rate_hz=arguments.rate, step_s=arguments.step)
            finally:
                agent.close()
                site.close()
    reloads = len(MAPPINGS) - 1
    print(f"readings    {outcome.sent} in {outcome.seconds:.1f} s, {arguments.rate:g} a second asked for")
    print(f"reloads     {reloads}, {reloads - (reloads >= WRONG_AT)} of them taken, the others refused")
    print(f"read as     a: {outcome.by_mapping['a']}, b: {outcome.by_mapping['b']}")
    print(f"lost        {outcome.lost}")
    print(f"duplicated  {outcome.duplicated}")
    return 1 if outcome.lost or outcome.duplicated else 0


if __name__ == "__main__":
    sys.exit(main())
