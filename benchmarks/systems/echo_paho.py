"""An echo on paho with its threaded loop and TCP_NODELAY: what MQTT alone costs in Python.

Answers as many bytes as a prediction of atoll has, with the reading's own seq and boot, and infers
nothing. Usage: echo_paho.py PORT QOS INFLIGHT
"""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

import paho.mqtt.client as mqtt

HEAD = (
    b'{"time_ms":1730794500000.123,"value":0.93123453855514526,"release":1,"latency_ms":0.412,'
    b'"stream":"press",'
)


def main() -> None:
    port, qos, inflight = (int(word) for word in sys.argv[1:4])

    def on_socket_open(_client: mqtt.Client, _userdata: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_connect(client: mqtt.Client, *_rest: Any) -> None:
        client.subscribe("atoll/v1/bench/+/reading/press", qos)

    def on_message(client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        device = message.topic.split("/")[3]
        answer = HEAD + message.payload[message.payload.rfind(b'"seq"') :]
        client.publish(f"atoll/v1/bench/sut/prediction/{device}/wear", answer, qos)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="sut")
    client.max_inflight_messages_set(inflight)
    client.on_socket_open = on_socket_open
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
