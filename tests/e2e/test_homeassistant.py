"""What Home Assistant sees of a real agent, and what its button does."""

from __future__ import annotations

import json

from support.bundles import make_bundle
from support.site import reading
from support.spy import Spy

from atoll_contract.requests import Response

MODELS = """
[[model]]
name = "wear"
stream = "press"
[homeassistant]
enabled = true
max_delay_s = 0.1
"""
CONFIG = "homeassistant/device/atoll_site_pi/config"


def test_models_and_releases_are_shown_and_the_button_skips_the_delay(mosquitto_broker, make_site):
    site = make_site(mosquitto_broker, models=MODELS)
    settings = site.agent.settings.read_text()
    site.agent.settings.write_text(
        settings.replace("[broker]", 'trusted_writers = ["homeassistant"]\n[broker]')
    )
    with Spy(mosquitto_broker.port, "homeassistant/#", client_id="home") as home:

        def shown() -> dict:
            found = home.on(CONFIG)
            return json.loads(found[-1].payload)["components"] if found and found[-1].payload else {}

        site.agent.start()
        site.trainer.publish(make_bundle(release=1))
        site.champion(1)
        site.wait_lane()
        site.send(reading(1))
        home.wait(lambda: "sensor.wear.press-1" in shown(), "a sensor for the device")

        # A release that would wait for days: the button is there, and skips that.
        site.trainer.publish(make_bundle(release=2), "--max-delay", "604800")
        button = home.wait(lambda: shown()["update.wear"].get("payload_install"), "the button")
        topic = shown()["update.wear"]["command_topic"]
        site.send(b"nonsense", button.encode(), topic=topic)
        site.send(button.encode(), topic=topic.replace("/homeassistant/", "/stranger/"))
        site.champion(2)
        home.wait(lambda: "payload_install" not in shown()["update.wear"], "no button without a delay")

        # It starts again, and is told all of it again.
        told = len(home.on(CONFIG))
        site.send(b"online", topic="homeassistant/status")
        home.wait(lambda: len(home.on(CONFIG)) > told, "the announcement again")
        again = shown()

        # Switched off, it is taken back.
        site.agent.stop()
        site.agent.settings.write_text(settings.replace("enabled = true", "enabled = false"))
        site.agent.start()
        home.wait(lambda: home.on(CONFIG)[-1].payload == b"", "nothing left behind")

    (response,) = site.spy.on("/response/homeassistant/skip_delay")
    assert Response.decode(response.payload).done
    assert again.keys() == {"sensor.wear.press-1", "update.wear"}
    assert site.agent.events("request.obeyed")[0]["writer"] == "homeassistant"
    reasons = {line["reason"] for line in site.agent.events("request.refused")}
    assert reasons == {"malformed_payload", "untrusted_writer"}
