"""Makes the model files beside this script (needs TensorFlow): run it after a change here.

mlp8         float32 [1,8] -> 16 -> 16 -> [1,1]: a sensor-sized model
window64x3   float32 [1,64,3] -> two convolutions -> [1,1]: a window of a fast sensor
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

FOLDER = Path(__file__).parent


def mlp8() -> tf.keras.Model:
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [layers.Input((8,)), layers.Dense(16, "relu"), layers.Dense(16, "relu"), layers.Dense(1)]
    )


def window64x3() -> tf.keras.Model:
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((64, 3)),
            layers.Conv1D(8, 5, strides=2, activation="relu"),
            layers.Conv1D(8, 5, strides=2, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )


def convert(model: tf.keras.Model) -> bytes:
    shape = [1, *model.input_shape[1:]]
    call = tf.function(model.call, input_signature=[tf.TensorSpec(shape, tf.float32)])
    # Without the model as second argument: weights become constants.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()])
    return converter.convert()


def main() -> None:
    tf.keras.utils.set_random_seed(1)
    for make in (mlp8, window64x3):
        (FOLDER / f"{make.__name__}.tflite").write_bytes(convert(make()))


if __name__ == "__main__":
    main()
