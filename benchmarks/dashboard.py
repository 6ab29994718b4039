"""A dashboard with 1,000 devices and 2,000 predictions a second, and two pages of it in a browser.

A staged fleet publishes over a Mosquitto: as many readings as predictions. Told are the CPU of the server and
of the browser (in per cent of one core), the delay from publishing a prediction to the frame that draws it,
and the server's memory over time. The delay is measured in the page: at each frame that a chart has drawn,
the time now less the time that the newest prediction was published at, once for each prediction.
`make bench-dashboard`; BENCH="--minutes 2" for a shorter run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, quantiles

import psutil
from playwright.sync_api import Page, sync_playwright
from support.brokers import mosquitto
from support.dashboards import dashboard
from support.staged_fleet import MODEL, SITE, StagedFleet

from atoll_contract.release import ReleaseTerms

RATE_HZ = 2.0
SAMPLE_S = 5.0
PATIENCE_MS = 120_000
DRAWN = 0.9
"""So many of the device's predictions must have a frame of their own: a delay of few says little."""
WATCH = """
// A page that was cut off too long loads itself anew: this follows it.
setInterval(() => {
    const element = document.querySelector(".chart");
    const chart = element && window.getElement && getElement(element.id.slice(1))?.chart;
    if (!chart || chart.isWatched) return;
    chart.isWatched = true;
    let newest = Infinity;
    chart.on("rendered", () => {
        const data = chart.getOption().series[0].data;
        const last = data[data.length - 1][0];
        if (last > newest) requestAnimationFrame(() => window.timed(Date.now() - last));
        newest = last;
    });
}, 200);
"""


def cpu_s(processes: list[psutil.Process]) -> float:
    """Return the CPU time of processes that still run."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def browser_processes() -> list[psutil.Process]:
    """Return the processes of the browser that we have started."""
    return [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]


def dashboard_process() -> psutil.Process:
    """Return the process of the dashboard that we have started."""
    (found,) = [
        one for one in psutil.Process().children() if "atoll_dashboard.cli" in " ".join(one.cmdline())
    ]
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum."""
    cuts = quantiles(values, n=100)
    return {"median": round(cuts[49]), "p99": round(cuts[98]), "max": round(max(values))}


def measure(page: Page, fleet: StagedFleet, minutes: float, delays: list[float]) -> dict[str, object]:
    """Return the figures of so many minutes."""
    server, browser = dashboard_process(), browser_processes()
    delays.clear()
    started, sent = time.monotonic(), fleet.sent
    before = cpu_s([server]), cpu_s(browser)
    memory_mb = []
    while time.monotonic() - started < minutes * 60:
        page.wait_for_timeout(SAMPLE_S * 1e3)
        memory_mb.append(round(server.memory_info().rss / 1e6, 1))
    passed_s = time.monotonic() - started
    # The first minutes fill the series, which are bounded: what counts is whether it grows after them.
    half = memory_mb[len(memory_mb) // 2 :]
    drawable = round(passed_s * RATE_HZ)
    return {
        "seconds": round(passed_s),
        "predictions_per_s": round((fleet.sent - sent) / passed_s),
        "server_cpu_percent": round((cpu_s([server]) - before[0]) / passed_s * 100, 1),
        "browser_cpu_percent": round((cpu_s(browser) - before[1]) / passed_s * 100, 1),
        "publish_to_pixel_ms": spread(delays) if len(delays) > 1 else None,
        "frames_timed": len(delays),
        "of_predictions": drawable,
        "too_few_were_drawn": len(delays) < DRAWN * drawable,
        "memory_mb": memory_mb[:: max(1, len(memory_mb) // 20)],
        "memory_mb_second_half": [min(half), round(mean(half), 1), max(half)],
    }


def main() -> int:
    """Run it and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--agents", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, mosquitto(Path(folder) / "broker") as broker:
        fleet = StagedFleet(
            broker.port, devices=given.devices, rate_hz=RATE_HZ, agents=given.agents, has_labels=False
        )
        with fleet, dashboard(Path(folder) / "web", broker) as (url, _), sync_playwright() as playwright:
            fleet.releases(ReleaseTerms(model=MODEL, release=1))
            for number in range(given.agents):
                fleet.status(fleet.agent(number))
                fleet.slot(fleet.agent(number), 1)
            fleet.settle()
            fleet.play()
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            pages = [chromium.new_context().new_page() for _ in range(2)]
            for page in pages:
                page.set_default_timeout(PATIENCE_MS)
            pages[0].goto(url)
            pages[0].get_by_role("table", name="Agents").wait_for()
            # The device has to be known before its page can draw it.
            pages[1].wait_for_timeout(3000)
            delays: list[float] = []
            pages[1].expose_function("timed", lambda delay: delays.append(delay))  # noqa: PLW0108 - no builtins
            pages[1].add_init_script(WATCH)
            pages[1].goto(f"{url}/device/{SITE}/{fleet.device(0)}")
            pages[1].locator("canvas").first.wait_for()
            pages[1].wait_for_timeout(2000)
            figures = measure(pages[1], fleet, given.minutes, delays)
            chromium.close()
    print(json.dumps({"devices": given.devices, **figures}))
    return 1 if figures["too_few_were_drawn"] else 0


if __name__ == "__main__":
    sys.exit(main())
