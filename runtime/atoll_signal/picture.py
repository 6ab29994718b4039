"""From a JPEG or PNG to one row of the feature matrix, as the manifest says; by Pillow (extra ``pictures``).

A picture comes from outside: its header is looked at before any pixel is decoded, only the two formats
are ever tried, and whatever the decoder meets ends in a refusal. A JPEG much larger than the model's
picture is decoded at a half, a quarter or an eighth of its size, which costs a part of the time.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import BundleRejectedError, MalformedMessageError, Reason
from atoll_contract.manifest import Channels, Fit, Manifest, PictureSpec
from atoll_contract.messages import MAX_DETAIL_CHARS, Value
from atoll_signal.features import FeatureRow

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS: Final = 16_777_216
"""A larger picture is refused: decoded it takes up to 8 bytes a pixel."""

_FORMATS: Final = ("JPEG", "PNG")
_MODES: Final = {Channels.RGB: "RGB", Channels.BGR: "RGB", Channels.GREY: "L"}
_ORIENTATION: Final = 0x0112
"""The EXIF tag that says which side is up."""
_SPARE: Final = 2
"""A JPEG is decoded at no less than so many times the model's size: the rest is done by the resampling."""


Units = Mapping[str, str | None] | None
"""The unit that each value is sent in; None: that of the manifest."""


def rows_of(manifest: Manifest, units: Units = None) -> FeatureRow | PictureRow:
    """Return what turns the values of readings into rows, chosen once for a release.

    Raises:
        BundleRejectedError: It takes pictures, and nothing is installed that decodes them.
    """
    return PictureRow(manifest, units) if takes_pictures(manifest) else FeatureRow(manifest, units)


def waiting_rows_of(manifest: Manifest, units: Units = None) -> FeatureRow | PictureRow | WaitingPictureRow:
    """Return the same for readings whose rows wait for a model of their own thread.

    What they return is a row once :func:`unpacker_of` has unpacked it, in that thread.

    Raises:
        BundleRejectedError: It takes pictures, and nothing is installed that decodes them.
    """
    return WaitingPictureRow(manifest, units) if decodes_late(manifest) else rows_of(manifest, units)


def unpacker_of(manifest: Manifest) -> Callable[[bytes | bytearray], NDArray[np.float32]]:
    """Return what makes a window, shape (1, rows, columns), of samples that have waited; called once.

    It raises a MalformedMessageError if they are a picture that cannot be decoded.
    """
    if decodes_late(manifest):
        return WaitingPictureRow(manifest).unpack
    shape = (1, manifest.rows, manifest.columns)
    return lambda samples: np.frombuffer(samples, np.float32).reshape(shape)


def decodes_late(manifest: Manifest) -> bool:
    """Whether pictures wait as they are, and are decoded by the thread of their model.

    Decoding one takes milliseconds, which the readings of other streams must not wait for. In windows
    of several pictures each is decoded once, as it arrives.
    """
    return takes_pictures(manifest) and not manifest.keeps_readings


def takes_pictures(manifest: Manifest) -> bool:
    """Whether readings may bring a picture to this release."""
    return any(value.picture is not None for value in manifest.values)


def has_decoder() -> bool:
    """Whether Pillow is installed."""
    return importlib.util.find_spec("PIL") is not None


def describe(picture: bytes) -> str:
    """Return what ``picture`` is, for people; without its size where nothing is installed that tells it."""
    text = f"a {'PNG' if picture[1:4] == b'PNG' else 'JPEG'} of {len(picture)} bytes"
    if not has_decoder():
        return text
    image: Any = importlib.import_module("PIL.Image")
    try:
        with image.open(io.BytesIO(picture), formats=_FORMATS) as opened:
            return f"{text}, {opened.width} x {opened.height}"
    except Exception:  # noqa: BLE001 - whatever a decoder meets
        return f"{text}, which cannot be decoded"


def require_decoder() -> None:
    """Refuse a release that takes pictures where nothing decodes them.

    Raises:
        BundleRejectedError: With what to install.
    """
    if not has_decoder():
        message = "the bundle takes pictures; install what decodes them: pip install 'atoll[pictures]'"
        raise BundleRejectedError(message, Reason.PICTURES_UNSUPPORTED)


class PictureRow:
    """Turns the pictures of readings into rows: like :class:`atoll_signal.features.FeatureRow`."""

    def __init__(self, manifest: Manifest, units: Units = None) -> None:
        require_decoder()
        (value,) = (value for value in manifest.values if value.picture is not None)
        self._name = value.name
        self._decoder = PictureDecoder(value.picture or PictureSpec(), value.shape[0], value.shape[1])
        self._arrays = FeatureRow(manifest, units)

    def row(self, values: Mapping[str, Value | bytes]) -> bytes:
        """Return the row of one reading: packed float32 numbers, row after row of pixels, 0 to 255.

        An array instead of a picture is taken as it is.

        Raises:
            MalformedMessageError: There is no picture, or one that cannot be decoded or is too large.
        """
        picture = values.get(self._name)
        if isinstance(picture, bytes):
            return self._decoder.decode(picture).astype(np.float32).tobytes()
        return self._arrays.row(values)  # type: ignore[arg-type]  # no bytes in it


class WaitingPictureRow:
    """Leaves a picture as it is until it is unpacked: a byte that says so, then the picture."""

    _PICTURE: Final = b"P"
    _ROW: Final = b"R"

    def __init__(self, manifest: Manifest, units: Units = None) -> None:
        self._rows = PictureRow(manifest, units)
        (self._name,) = (value.name for value in manifest.sources)
        self._shape = (1, 1, manifest.columns)

    def row(self, values: Mapping[str, Value | bytes]) -> bytes:
        """Return what :meth:`unpack` makes a window of.

        Raises:
            MalformedMessageError: The picture is missing, or an array in its place is of another shape.
        """
        picture = values.get(self._name)
        if isinstance(picture, bytes):
            return self._PICTURE + picture
        return self._ROW + self._rows.row(values)

    def unpack(self, waited: bytes | bytearray) -> NDArray[np.float32]:
        """Return the window, float32, shape (1, 1, columns).

        Raises:
            MalformedMessageError: The picture cannot be decoded or is too large.
        """
        if waited[:1] == self._PICTURE:
            row = self._rows.row({self._name: bytes(waited[1:])})
            return np.frombuffer(row, np.float32).reshape(self._shape)
        return np.frombuffer(bytes(waited[1:]), np.float32).reshape(self._shape)


class PictureDecoder:
    """Decodes pictures to one size. Pillow is imported when the first one is made."""

    def __init__(self, spec: PictureSpec, height: int, width: int) -> None:
        self._spec = spec
        self._size = (width, height)
        self._mode = _MODES[spec.channels]
        self._image: Any = importlib.import_module("PIL.Image")
        self._ops: Any = importlib.import_module("PIL.ImageOps")
        self._resampling = getattr(self._image.Resampling, spec.resampling.name)

    def decode(self, picture: bytes) -> NDArray[np.uint8]:
        """Return the pixels, shape (height, width) or (height, width, 3).

        Raises:
            MalformedMessageError: It is no JPEG or PNG, is damaged or too large.
        """
        try:
            with self._image.open(io.BytesIO(picture), formats=_FORMATS) as image:
                _require_size(*image.size)
                image.draft(self._mode, [_SPARE * max(self._size)] * 2)
                resized = self._resized(self._upright(image))
        except MalformedMessageError:
            raise
        except self._image.DecompressionBombError as error:
            raise _too_large("far too large") from error
        except Exception as error:
            detail = str(error).split(" <")[0] or type(error).__name__  # without the address of a buffer
            raise MalformedMessageError(f"picture: {detail}"[:MAX_DETAIL_CHARS]) from error
        pixels: NDArray[np.uint8] = np.asarray(resized)
        return pixels[..., ::-1] if self._spec.channels is Channels.BGR else pixels

    def _upright(self, image: Image.Image) -> Image.Image:
        """Return the picture, decoded, with the side up that EXIF says is."""
        if image.getexif().get(_ORIENTATION, 1) != 1:
            turned: Image.Image = self._ops.exif_transpose(image)
            image = turned
        if image.mode.startswith("I"):  # 16 bits of grey
            image = self._image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert(self._mode)

    def _resized(self, image: Image.Image) -> Image.Image:
        if image.size == self._size:
            return image
        match self._spec.fit:
            case Fit.STRETCH:
                return image.resize(self._size, self._resampling)
            case Fit.CROP:
                cropped: Image.Image = self._ops.fit(image, self._size, self._resampling)
                return cropped
            case Fit.PAD:
                padded: Image.Image = self._ops.pad(image, self._size, self._resampling)
                return padded


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height}")


def _too_large(size: str) -> MalformedMessageError:
    return MalformedMessageError(
        f"picture: {size}; at most {MAX_PIXELS} pixels are decoded", Reason.TOO_LARGE
    )
