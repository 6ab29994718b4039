"""Makes the model files beside this script (needs TensorFlow): run it after a change here.

mlp8         float32 [1,8] -> 16 -> 16 -> [1,1]: a sensor-sized model, 2 µs
window64x3   float32 [1,64,3] -> two convolutions -> [1,1]: a window of a fast sensor
heavy8       float32 [1,8] -> 7 convolutions -> [1,1]: about 0.25 ms on a desktop core
slow8        float32 [1,8] -> 73 convolutions -> [1,1]: about 50 ms
"""

from __future__ import annotations

import os
from collections.abc import Callable
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


def heavy8() -> tf.keras.Model:
    return _image_of_8(side=32, channels=16, repeats=6)


def slow8() -> tf.keras.Model:
    return _image_of_8(side=64, channels=32, repeats=72)


def _image_of_8(side: int, channels: int, repeats: int) -> tf.keras.Model:
    """Return much work in a small file: one layer's weights, used again and again."""
    layers = tf.keras.layers

    def convolution() -> tf.keras.layers.Layer:
        # Gain and bound keep the numbers from vanishing or growing over so many layers.
        gain = tf.keras.initializers.VarianceScaling(3.0)
        return layers.Conv2D(channels, 3, padding="same", activation="relu6", kernel_initializer=gain)

    again = convolution()
    return tf.keras.Sequential(
        [
            layers.Input((8,)),
            layers.Dense(16, "relu"),
            layers.Reshape((4, 4, 1)),
            layers.UpSampling2D(side // 4),
            convolution(),
            *[again] * repeats,
            layers.GlobalAveragePooling2D(),
            layers.Dense(1),
        ]
    )


def convert(model: tf.keras.Model) -> bytes:
    shape = [1, *model.input_shape[1:]]
    call = tf.function(model.call, input_signature=[tf.TensorSpec(shape, tf.float32)])
    # Without the model as second argument: weights become constants.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()])
    content: bytes = converter.convert()
    return content


MAKERS: tuple[Callable[[], tf.keras.Model], ...] = (mlp8, window64x3, heavy8, slow8)


def main() -> None:
    tf.keras.utils.set_random_seed(1)
    for make in MAKERS:
        (FOLDER / f"{make.__name__}.tflite").write_bytes(convert(make()))


if __name__ == "__main__":
    main()
