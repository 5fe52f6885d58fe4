"""The PNG encoder against a decoder written from the standard, and the difference colours."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from taut.report import png


def decode(data: bytes) -> np.ndarray:
    """Read an 8-bit grey or RGB PNG without filters, checking every chunk's checksum."""
    assert data[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            kind + body
        )
        chunks.append((kind, body))
        at += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()  # filter type 0 in every row
    pixels = rows[:, 1:].reshape(height, width, channels)
    return pixels[..., 0] if channels == 1 else pixels


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
    ).flatmap(lambda shape: arrays(np.uint8, shape))
)
def test_decoding_gives_the_pixels_back(pixels: np.ndarray) -> None:
    assert np.array_equal(decode(png.encode(pixels)), pixels)
    head, body = png.data_uri(pixels).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(decode(base64.b64decode(body)), pixels)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8)])
def test_another_type_or_shape_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="PNG needs uint8"):
        png.encode(bad)


def test_pictures_keep_every_8_bit_value() -> None:
    ramp = np.arange(256, dtype=np.float32).reshape(1, 16, 16) / np.float32(255)
    assert np.array_equal(png.picture(ramp).ravel(), np.arange(256))
    colour = np.stack([ramp[0], ramp[0][::-1], ramp[0].T])
    assert np.array_equal(png.picture(colour)[..., 1].ravel(), png.picture(ramp[:, ::-1]).ravel())
    assert png.picture(colour).shape == (16, 16, 3)


def test_grey_difference_is_red_up_blue_down_and_pale_where_nothing_changed() -> None:
    image = np.full((1, 1, 5), 0.5, np.float32)
    other = image + np.array([-0.1, -0.05, 0.0, 0.05, 0.1], np.float32)
    shown = png.difference(image, other, 0.1)[0].astype(int)
    red, blue = shown[:, 0], shown[:, 2]
    assert (red - blue).tolist() == sorted(red - blue)  # monotone in the sign and size
    assert red[4] - blue[4] > 100
    assert blue[0] - red[0] > 100
    assert np.ptp(shown[2]) <= 2
    assert shown[2].min() > 230
    assert np.array_equal(shown[4], png.difference(image, image + 0.3, 0.1)[0, 0])  # clipped


def test_colour_difference_is_signed_by_channel() -> None:
    image = np.full((3, 1, 1), 0.5)
    other = image + np.array([0.1, 0.0, -0.1]).reshape(3, 1, 1)
    assert np.abs(png.difference(image, other, 0.1)[0, 0].astype(int) - [255, 128, 0]).max() <= 1
