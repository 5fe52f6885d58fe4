"""Images as PNG data URIs, and colours for a signed difference. No dependency but zlib.

The encoder writes 8-bit grey or RGB, not interlaced, each row without a filter
(ISO/IEC 15948:2004, sections 5 and 11).
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2

# Ends and middle of the scale for differences: blue lowers a pixel, red raises it.
_LOWERED, _SAME, _RAISED = (33.0, 102.0, 172.0), (244.0, 244.0, 242.0), (178.0, 24.0, 43.0)
_MARK = (122.0, 90.0, 166.0)  # the page's accent
_FADED = 200.0  # black, where marks lie over a picture; all three colours stand out against it


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """PNG file of ``pixels``: uint8, shape (H, W) for grey or (H, W, 3) for RGB.

    Raises
    ------
    ValueError
        For another shape or type.

    """
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"PNG needs uint8 (H, W) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY if grey else _RGB, 0, 0, 0)
    rows = pixels.reshape(height, -1)
    unfiltered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)
    body = zlib.compress(unfiltered.tobytes(), 9)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """``data:image/png;base64,...`` of :func:`encode`."""
    return "data:image/png;base64," + base64.b64encode(encode(pixels)).decode("ascii")


def picture(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """8-bit pixels of an image (C, H, W) in [0, 1]: grey for one channel, RGB for three.

    Any other number of channels is shown as its mean over channels, in grey.
    """
    values = np.clip(image, 0.0, 1.0) * 255.0
    return _rounded(values.transpose(1, 2, 0) if len(values) == 3 else values.mean(axis=0))


def difference(
    image: NDArray[np.floating], other: NDArray[np.floating], scale: float
) -> NDArray[np.uint8]:
    """Signed difference ``other - image`` of two images (C, H, W), in colour (H, W, 3).

    ``scale`` (pixel units, positive) is the difference that gets the full colour. Three
    channels: grey is no change, each channel is brighter where it was raised. Otherwise the
    mean over channels on a scale from blue (lowered) over near-white (same) to red (raised).
    """
    change = np.clip((other.astype(np.float64) - image.astype(np.float64)) / scale, -1.0, 1.0)
    if change.shape[0] == 3:
        return _rounded(127.5 * (1.0 + change.transpose(1, 2, 0)))
    signed = change.mean(axis=0)[..., None]
    same = np.array(_SAME)
    towards = np.where(signed > 0, np.array(_RAISED), np.array(_LOWERED))
    return _rounded(same + np.abs(signed) * (towards - same))


def marked(
    image: NDArray[np.floating],
    where: NDArray[np.bool_],
    sign: NDArray[np.integer] | None = None,
) -> NDArray[np.uint8]:
    """A faded grey picture of an image (C, H, W) in [0, 1] with some pixels marked, (H, W, 3).

    ``where`` (H, W) is marked in violet; where ``sign`` (H, W) is given, red for 1 and blue for
    -1, as in :func:`difference`.
    """
    grey = _FADED + (_SAME[0] - _FADED) * np.clip(image, 0.0, 1.0).mean(axis=0)[..., None]
    colour = np.broadcast_to(np.array(_MARK), (*where.shape, 3))
    if sign is not None:
        colour = np.where(sign[..., None] > 0, np.array(_RAISED), colour)
        colour = np.where(sign[..., None] < 0, np.array(_LOWERED), colour)
    return _rounded(np.where(where[..., None], colour, grey))


def _rounded(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return rounded
