"""The plain script on gmqtt and asyncio, the fastest of the pure Python clients.

Usage: gmqtt_script.py PORT QOS INFLIGHT MODEL.tflite
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import gmqtt
import numpy as np

try:
    from tflite_runtime.interpreter import Interpreter
except ImportError:
    from ai_edge_litert.interpreter import Interpreter

NAMES = [f"x{number}" for number in range(8)]


async def main() -> None:
    port, qos = (int(word) for word in sys.argv[1:3])  # gmqtt has no limit of its own in flight
    interpreter = Interpreter(model_path=sys.argv[4], num_threads=1)
    interpreter.allocate_tensors()
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]

    def on_connect(client: gmqtt.Client, *_rest: Any) -> None:
        client.subscribe("atoll/v1/bench/+/reading/press", qos)

    def on_message(client: gmqtt.Client, topic: str, payload: bytes, *_rest: Any) -> int:
        arrival = time.monotonic()
        reading = json.loads(payload)
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
        device = topic.split("/")[3]
        client.publish(f"atoll/v1/bench/sut/prediction/{device}/wear", json.dumps(prediction), qos)
        return 0

    client = gmqtt.Client("sut")
    client.on_connect = on_connect
    client.on_message = on_message
    await client.connect("127.0.0.1", port, version=gmqtt.constants.MQTTv311)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
