"""The settings that the demo writes: what a user would write for this small world."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from atoll_sim.demo.watch import OBSERVER, SITE

DEVICES: Final = ("press-1", "press-2", "press-3")
RATE_HZ: Final = 30.0
STREAM: Final = "press"
MODEL: Final = "wear"
AGENT: Final = "agent"

STREAMS_TOML: Final = f"""\
[[stream]]
name = "{STREAM}"
values = {{ x = {{ unit = "mm" }} }}
"""

WORLD_TOML: Final = f"""\
[world]
site = "{SITE}"
seed = 7
trusted_writers = ["{OBSERVER}"]

[[device]]
prefix = "press"
count = {len(DEVICES)}
stream = "{STREAM}"
rate_hz = {RATE_HZ}

[device.signal.x]
shape = "uniform"
low = -5.0
high = 5.0

[device.truth]
model = "{MODEL}"
slope = {{ x = 2.0 }}
intercept = 1.0
noise = 0.1
label_delay_s = 0.5
"""

TASK_TOML: Final = f"""\
[task]
model = "{MODEL}"
stream = "{STREAM}"
kind = "regression"
unit = "µm"
values = {{ x = {{ unit = "mm" }} }}

[fit]
optimiser = "gradient_descent"
learning_rate = 0.1
epochs = 60

[pass]
shadow_windows = 200
probation_windows = 100
max_error_ratio = 1.5
"""


def write(folder: Path, port: int, web_port: int) -> None:
    """Write all settings files of the demo into ``folder``."""
    broker = f'[broker]\nhost = "127.0.0.1"\nport = {port}\n'
    texts = {
        "streams.toml": STREAMS_TOML,
        "world.toml": WORLD_TOML,
        "task.toml": TASK_TOML,
        "agent.toml": f"""\
[agent]
id = "{AGENT}"
site = "{SITE}"
state_dir = "agent"
clock = "trusted"
streams_file = "streams.toml"
status_interval_s = 1.0

{broker}
[[model]]
name = "{MODEL}"
stream = "{STREAM}"
""",
        "trainer.toml": f"""\
[trainer]
id = "trainer"
site = "{SITE}"
home = "trainer"
streams_file = "streams.toml"

{broker}""",
        "dashboard.toml": f"""\
[dashboard]
site = "{SITE}"
streams_file = "streams.toml"

[web]
port = {web_port}

{broker}""",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
