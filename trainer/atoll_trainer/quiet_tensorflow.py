"""TensorFlow, imported once and made quiet. Only the training path imports this module.

A process that has imported it must not make a tflite-runtime interpreter afterwards: the two libraries
share symbols, and the interpreter dies with ``std::bad_alloc``. It is left untyped: its stubs differ
from version to version.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

# Read when the library is loaded, so they stand before the import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its sums differ from run to run

tf: Final[Any] = importlib.import_module("tensorflow")
"""The module ``tensorflow``."""
tf.get_logger().setLevel("ERROR")
