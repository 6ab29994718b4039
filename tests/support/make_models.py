"""Makes the small model files beside this script (needs TensorFlow): run it after a change here.

linear_float   y = 2x + 1, float32 [1,1] -> [1,1]
linear_int8    the same, int8 in and out, for x in [-10, 10]
triple_float   y = 3x - 1, float32
mean12_float   mean of a window of 12, float32 [1,12] -> [1,1]
nan_float      y = log(x), float32: NaN for negative x
lookup_float   y = 10, 20 or 30 for x = 0, 1 or 2, float32: the runtime fails on any other
three_float    y = (x, 2x, -x), float32 [1,1] -> [1,3]
slow_float     y = 2x + 1, float32, after some ten milliseconds of convolutions
mixing_float   y = the sum of all |x| in the batch, float32: wrong in batches
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent / "models"


class Module(tf.Module):
    def __init__(self, function, length=1):
        super().__init__()
        self.call = tf.function(function, input_signature=[tf.TensorSpec([1, length], tf.float32)])


def dense(weights, bias):
    matrix = tf.constant(weights, tf.float32, shape=[len(weights), 1])
    return lambda x: tf.matmul(x, matrix) + tf.constant([bias], tf.float32)


def look_up(x):
    return tf.gather(tf.constant([[10.0], [20.0], [30.0]]), tf.cast(x[:, 0], tf.int32))


def toil(x):
    kernel = tf.constant(1e-9, tf.float32, shape=[3, 3, 16, 16])
    image = tf.tile(tf.reshape(x, [1, 1, 1, 1]), [1, 128, 128, 16])
    for _ in range(3):
        image = tf.nn.conv2d(image, kernel, 1, "SAME")
    return 2.0 * x + 1.0 + tf.reshape(tf.reduce_mean(image), [1, 1])


def convert(module, representative=None):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.call.get_concrete_function()], module)
    if representative is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return converter.convert()


def spread():
    for x in np.linspace(-10, 10, 101, dtype=np.float32):
        yield [np.array([[x]], np.float32)]


def main():
    FOLDER.mkdir(exist_ok=True)
    files = {
        "linear_float": convert(Module(dense([2.0], 1.0))),
        "slow_float": convert(Module(toil)),
        "linear_int8": convert(Module(dense([2.0], 1.0)), spread),
        "triple_float": convert(Module(dense([3.0], -1.0))),
        "mean12_float": convert(Module(dense([1 / 12] * 12, 0.0), 12)),
        "nan_float": convert(Module(tf.math.log)),
        "lookup_float": convert(Module(look_up)),
        "three_float": convert(Module(lambda x: tf.matmul(x, tf.constant([[1.0, 2.0, -1.0]])))),
        "mixing_float": convert(Module(lambda x: x * 0.0 + tf.reduce_sum(tf.abs(x)))),
    }
    for name, content in files.items():
        (FOLDER / f"{name}.tflite").write_bytes(content)


if __name__ == "__main__":
    main()
