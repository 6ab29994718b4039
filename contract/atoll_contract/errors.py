"""Every failure atoll foresees, sorted by who must act.

``ConfigError`` is for the operator, ``PeerError`` means that the other side broke the contract
(drop, count, report, never retry), ``TransientError`` means that the surroundings failed (retry)
and ``DeviceError`` means that this device failed (degrade or restart). Anything else is a bug and
is not caught. Reason codes are part of the contract: they stand in status messages and metrics.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Stable codes for why something was refused or failed."""

    # Readings and other messages.
    MALFORMED_TOPIC = "malformed_topic"
    MALFORMED_PAYLOAD = "malformed_payload"
    MISSING_VALUE = "missing_value"
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"
    BAD_TIME = "bad_time"
    TOO_LARGE = "too_large"
    NO_DEVICE = "no_device"
    NO_BIRTH = "no_birth"
    RETAINED = "retained"
    UNTRUSTED_WRITER = "untrusted_writer"
    EXPIRED = "expired"
    OVERLOAD = "overload"
    UNKNOWN_REQUEST = "unknown_request"
    NOTHING_WAITS = "nothing_waits"
    OUTPUT_NOT_FINITE = "output_not_finite"
    MODEL_FAILED = "model_failed"
    # Bundles and releases.
    MALFORMED_BUNDLE = "malformed_bundle"
    UNKNOWN_FORMAT = "unknown_format"
    DIGEST_MISMATCH = "digest_mismatch"
    WRONG_MODEL = "wrong_model"
    UNSUPPORTED_TENSORS = "unsupported_tensors"
    MODEL_UNREADABLE = "model_unreadable"
    MODEL_NEEDS_EDGETPU = "model_needs_edgetpu"
    MODEL_NOT_COMPILED = "model_not_compiled"
    PICTURES_UNSUPPORTED = "pictures_unsupported"
    VALUES_MISSING = "values_missing"
    UNIT_MISMATCH = "unit_mismatch"
    SHARED_STREAM = "shared_stream"
    UNKNOWN_ZONE = "unknown_zone"
    GOLDEN_MISMATCH = "golden_mismatch"
    SELF_TEST_CRASHED = "self_test_crashed"
    SELF_TEST_TIMEOUT = "self_test_timeout"
    ACTIVATION_CRASHED = "activation_crashed"
    ANSWERS_FEWER = "answers_fewer"
    CHAMPION_DISAGREES = "champion_disagrees"
    ERROR_TOO_LARGE = "error_too_large"
    OUTPUT_OUT_OF_RANGE = "output_out_of_range"
    TOO_SLOW = "too_slow"
    MISSING_CHUNK = "missing_chunk"
    NO_REPOSITORY = "no_repository"
    METADATA_EXPIRED = "metadata_expired"
    METADATA_FORGED = "metadata_forged"
    WITHDRAWN = "withdrawn"
    NO_SPACE = "no_space"
    # Surroundings and this device.
    BROKER_UNAVAILABLE = "broker_unavailable"
    BROKER_REFUSED = "broker_refused"
    NOT_STORED = "not_stored"
    STORAGE = "storage"
    NO_RUNTIME = "no_runtime"
    ACCELERATOR_LOST = "accelerator_lost"
    CHILD_CRASHED = "child_crashed"
    CHILD_TIMEOUT = "child_timeout"
    SETTINGS = "settings"
    UNSUITABLE_DATA = "unsuitable_data"
    COMMAND_FAILED = "command_failed"


class AtollError(Exception):
    """A failure that somebody can act on.

    Attributes:
        reason: Stable code for metrics and messages.
        detail: For people: what is wrong with which file, key or topic, and what to do.
    """

    default_reason: ClassVar[Reason]

    def __init__(self, detail: str, reason: Reason | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = self.default_reason if reason is None else reason


class ConfigError(AtollError):
    """The operator must change a setting; the process exits with status 78."""

    default_reason = Reason.SETTINGS

    def __init__(self, faults: str | list[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class PeerError(AtollError):
    """The other side broke the contract: drop, count, report, never retry."""


class MalformedMessageError(PeerError):
    """A topic or a payload is not what the contract says."""

    default_reason = Reason.MALFORMED_PAYLOAD


class RequestRefusedError(PeerError):
    """What is asked for is not known here, or cannot be done now."""

    default_reason = Reason.UNKNOWN_REQUEST


class BundleRejectedError(PeerError):
    """A bundle cannot or must not be used on this device."""

    default_reason = Reason.MALFORMED_BUNDLE


class DigestMismatchError(BundleRejectedError):
    """The bytes are not the ones that were signed."""

    default_reason = Reason.DIGEST_MISMATCH


class ReleaseForgedError(PeerError):
    """Signed metadata does not verify, or goes back in time."""

    default_reason = Reason.METADATA_FORGED


class TransientError(AtollError):
    """The surroundings failed: retry with a cap and jitter."""


class BrokerUnavailableError(TransientError):
    """No usable connection to the MQTT broker."""

    default_reason = Reason.BROKER_UNAVAILABLE


class RepositoryUnavailableError(TransientError):
    """The release topics are absent, incomplete or expired for now."""

    default_reason = Reason.NO_REPOSITORY


class NotStoredError(TransientError):
    """The broker acknowledged a retained message and yet does not hold it."""

    default_reason = Reason.NOT_STORED


class DeviceError(AtollError):
    """This device failed: degrade or restart."""


class StorageError(DeviceError):
    """A file of the state folder cannot be written or read."""

    default_reason = Reason.STORAGE


class RuntimeUnavailableError(DeviceError):
    """No inference runtime works on this device."""

    default_reason = Reason.NO_RUNTIME


class AcceleratorLostError(DeviceError):
    """The Edge TPU does not answer, or is not there: the CPU answers until it comes back."""

    default_reason = Reason.ACCELERATOR_LOST
