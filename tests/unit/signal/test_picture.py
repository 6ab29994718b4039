from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll_contract.errors import BundleRejectedError, MalformedMessageError, Reason
from atoll_contract.manifest import (
    Channels,
    Dtype,
    Fit,
    Manifest,
    Normalisation,
    PictureSpec,
    PixelResampling,
    Task,
    TensorSpec,
    ValueSpec,
)
from atoll_ingest.picture import MAX_PICTURE_BYTES, PictureDialect
from atoll_signal import picture
from atoll_signal.features import FeatureRow
from atoll_signal.picture import PictureRow, rows_of, unpacker_of, waiting_rows_of

Image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra pictures")

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def manifest(shape=(2, 4, 3), **spec) -> Manifest:
    columns = int(np.prod(shape))
    tensor = TensorSpec(shape=[1, columns], dtype=Dtype.FLOAT32)
    return Manifest(
        model="seen",
        release=1,
        task=Task.REGRESSION,
        values=[ValueSpec(name="picture", shape=list(shape), picture=PictureSpec(**spec))],
        features=["picture"],
        normalisation=Normalisation(mean=[0.0], scale=[1.0]),
        inputs=[tensor],
        outputs=[TensorSpec(shape=[1, 1], dtype=Dtype.FLOAT32)],
    )


def encoded(pixels, form="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, form, **options)
    return file.getvalue()


def row(found: bytes, shape=(2, 4, 3), **spec) -> np.ndarray:
    packed = rows_of(manifest(shape, **spec)).row({"picture": found})
    return np.frombuffer(packed, np.float32).reshape(shape)


def noise(height, width, seed=0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


def test_a_picture_of_the_models_size_is_taken_pixel_by_pixel():
    pixels = np.arange(24).reshape(2, 4, 3)

    assert np.array_equal(row(encoded(pixels)), pixels)


def test_channels_come_in_the_order_of_the_manifest():
    pixels = [[RED, GREEN, BLUE, RED]] * 2

    assert row(encoded(pixels), channels=Channels.BGR)[0, 0].tolist() == [0, 0, 255]
    grey = row(encoded(pixels), (2, 4), channels=Channels.GREY)
    assert grey[0].tolist() == [76, 150, 29, 76]  # ITU-R 601-2 luma


def test_each_fit_fills_the_models_proportions():
    # 2 wide, 4 high: red above, blue below; the model's is 4 wide, 2 high
    tall = encoded([[RED] * 2] * 2 + [[BLUE] * 2] * 2)

    stretched = row(tall, resampling=PixelResampling.NEAREST)
    cropped = row(tall, fit=Fit.CROP, resampling=PixelResampling.NEAREST)
    padded = row(tall, fit=Fit.PAD, resampling=PixelResampling.NEAREST)

    assert [line[0].tolist() for line in stretched] == [list(RED), list(BLUE)]
    assert {tuple(pixel) for line in cropped for pixel in line.tolist()} <= {RED, BLUE}
    assert padded[:, 0].tolist() == padded[:, 3].tolist() == [[0, 0, 0]] * 2
    assert padded.any(axis=2).sum(axis=1).tolist() == [1, 1]  # scaled to 1 wide, 2 high


def test_exif_says_which_side_is_up():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8] = 255

    upright = row(encoded(pixels, "JPEG", exif=exif), resampling=PixelResampling.BOX)

    assert upright[0].max() < 20
    assert upright[1].min() > 235


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_kind_of_pixel_becomes_the_models(mode):
    file = io.BytesIO()
    grey = Image.fromarray(np.full((2, 4), 255, np.uint8))
    wide = Image.fromarray(np.full((2, 4), 65535, np.uint16)) if mode == "I;16" else grey.convert(mode)
    wide.save(file, "JPEG" if mode == "CMYK" else "PNG")

    assert row(file.getvalue()).min() >= 250


def test_a_large_jpeg_is_like_its_full_decoding():
    pixels = noise(480, 640)
    whole = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR), np.float32)

    found = row(encoded(pixels, "JPEG", quality=95), (32, 32, 3))

    assert np.abs(found - whole).mean() < 4


def test_an_array_in_place_of_a_picture_is_taken_as_it_is():
    pixels = np.arange(24.0).reshape(2, 4, 3)

    packed = rows_of(manifest()).row({"picture": pixels.tolist()})

    assert packed == pixels.astype(np.float32).tobytes()


def test_a_picture_that_waits_becomes_the_same_row():
    described, content = manifest(), encoded(noise(30, 20), "JPEG")
    for value in (content, np.arange(24.0).tolist()):
        waited = waiting_rows_of(described).row({"picture": value})
        assert unpacker_of(described)(waited).tobytes() == rows_of(described).row({"picture": value})
    assert waiting_rows_of(described).row({"picture": content})[1:] == content
    with pytest.raises(MalformedMessageError):
        unpacker_of(described)(b"P" + content[:100])


def test_a_missing_picture_is_refused_like_any_value():
    with pytest.raises(MalformedMessageError) as caught:
        rows_of(manifest()).row({})

    assert caught.value.reason is Reason.MISSING_VALUE


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_truncated_picture_is_refused_wherever_it_ends(form):
    rows = PictureRow(manifest())
    whole = encoded(noise(40, 60), form)
    end = len(whole) - (2 if form == "JPEG" else 40)  # what follows is no pixel
    for size in range(0, end, 7):
        with pytest.raises(MalformedMessageError, match="picture: ") as caught:
            rows.row({"picture": whole[:size]})
        assert caught.value.reason is Reason.MALFORMED_PAYLOAD
        assert "0x" not in caught.value.detail


@pytest.mark.parametrize("side", [5_000, 50_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")

    with pytest.raises(MalformedMessageError, match="at most 16777216 pixels") as caught:
        PictureRow(manifest()).row({"picture": bomb})

    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_are_not_tried(form):
    content = encoded(noise(8, 8), form)

    with pytest.raises(MalformedMessageError, match="neither JPEG nor PNG"):
        PictureDialect("picture").decode(content)
    with pytest.raises(MalformedMessageError, match="picture: cannot identify"):
        PictureRow(manifest()).row({"picture": content})


def test_the_dialect_hands_on_the_bytes_of_a_picture():
    content = encoded(noise(8, 8))

    (reading,) = PictureDialect("picture").decode(content)

    assert reading.values == {"picture": content}
    with pytest.raises(MalformedMessageError) as caught:
        PictureDialect("picture").decode(content + bytes(MAX_PICTURE_BYTES))
    assert caught.value.reason is Reason.TOO_LARGE


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_bytes_do_more_than_be_refused(data):
    whole = encoded(noise(24, 24), data.draw(st.sampled_from(["JPEG", "PNG"])))
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    with suppress(MalformedMessageError):
        assert len(PictureRow(manifest()).row({"picture": bytes(content)})) == 96


def test_a_picture_is_no_number_for_a_model_of_numbers():
    values = {"values": [ValueSpec(name="picture")], "inputs": manifest().outputs}
    described = manifest().model_copy(update=values)

    rows = rows_of(described)

    assert isinstance(rows, FeatureRow)
    with pytest.raises(MalformedMessageError, match="'picture' is a picture, the model needs a number"):
        rows.row({"picture": b"\xff\xd8\xff"})


def test_without_a_decoder_the_release_is_refused(monkeypatch):
    monkeypatch.setattr(picture.importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(BundleRejectedError, match="pip install 'atoll\\[pictures\\]'") as caught:
        rows_of(manifest())

    assert caught.value.reason is Reason.PICTURES_UNSUPPORTED


@pytest.mark.parametrize(
    ("shape", "channels", "is_good"),
    [
        ([4, 4, 3], "rgb", True),
        ([4, 4], "grey", True),
        ([4, 4, 1], "grey", True),
        ([4, 4], "rgb", False),
        ([4, 4, 1], "bgr", False),
        ([4, 4, 3], "grey", False),
        ([4], "grey", False),
        ([], "rgb", False),
    ],
)
def test_the_shape_is_that_of_a_picture(shape, channels, is_good):
    def make():
        return ValueSpec(name="p", shape=shape, picture=PictureSpec(channels=Channels(channels)))

    if is_good:
        assert make().size == np.prod(shape)
    else:
        with pytest.raises(ValueError, match="needs shape"):
            make()
