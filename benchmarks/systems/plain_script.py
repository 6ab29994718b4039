"""What a good engineer writes in an afternoon: paho, json, numpy and a TFLite interpreter.

TCP_NODELAY is set unless a word follows: most scripts do not set it.
Usage: plain_script.py PORT QOS INFLIGHT MODEL.tflite [nagle]
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt

try:
    from tflite_runtime.interpreter import Interpreter
except ImportError:
    from ai_edge_litert.interpreter import Interpreter

NAMES = [f"x{number}" for number in range(8)]


def main() -> None:
    port, qos, inflight = (int(word) for word in sys.argv[1:4])
    is_nodelay = len(sys.argv) == 5
    interpreter = Interpreter(model_path=sys.argv[4], num_threads=1)
    interpreter.allocate_tensors()
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]

    def on_socket_open(_client: mqtt.Client, _userdata: Any, sock: Any) -> None:
        if is_nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_connect(client: mqtt.Client, *_rest: Any) -> None:
        client.subscribe("atoll/v1/bench/+/reading/press", qos)

    def on_message(client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        arrival = time.monotonic()
        reading = json.loads(message.payload)
        row = np.array([[reading["values"][name] for name in NAMES]], dtype=np.float32)
        interpreter.set_tensor(input_index, row)
        interpreter.invoke()
        prediction = {
            "time_ms": reading["time_ms"],
            "value": float(interpreter.get_tensor(output_index)[0, 0]),
            "release": 1,
            "latency_ms": round((time.monotonic() - arrival) * 1e3, 3),
            "seq": reading["seq"],
            "boot": reading["boot"],
            "stream": "press",
        }
        device = message.topic.split("/")[3]
        client.publish(f"atoll/v1/bench/sut/prediction/{device}/wear", json.dumps(prediction), qos)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="sut")
    client.max_inflight_messages_set(inflight)
    client.on_socket_open = on_socket_open
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_forever()


if __name__ == "__main__":
    main()
