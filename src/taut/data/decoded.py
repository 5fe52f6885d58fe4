"""Decode single JPEG files once, and keep the pixels in the user's cache.

The pixels of a part of a folder lie in one ``.npy`` file below ``decoded`` in the user's cache
folder of taut. Its name holds a hash of the folder and a key: the SHA-256 of names, sizes and
times of change of all files. Files that changed have another key and are decoded again; the
file of the key before is deleted then.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.errors import ConfigError, DataError

_CHUNK = 1024
"""Images held decoded before they are written."""

_MOST_THREADS = 8

Pixels = NDArray[np.uint8]


def decoded(
    paths: Sequence[Path],
    folder: Path,
    shape: tuple[int, int, int],
    name: str,
    *,
    resize: bool = False,
) -> NDArray[np.uint8]:
    """Return the pixels of JPEG files, decoded unless the cache has them.

    Parameters
    ----------
    paths
        The files, below ``folder``; at least one.
    folder
        Root of the data set.
    shape
        ``(3, H, W)`` that every image must have, or gets.
    name
        Of the data set and its part: the beginning of the file's name.
    resize
        Resize images of another size, bilinearly and without regard to their proportions.

    Returns
    -------
    array ``(N, 3, H, W)``
        uint8, mapped from the cache file: it takes memory as it is read, and writing to it does
        not change the file.

    Raises
    ------
    DataError
        When an image is missing, damaged or of another size; the message names it.
    ConfigError
        When Pillow is not installed, or the cache cannot be read or written.

    """
    from filelock import FileLock
    from platformdirs import user_cache_dir

    cache = Path(user_cache_dir("taut")) / "decoded"
    start = f"{name}-{sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
    target = cache / f"{start}-{_key(paths, folder, shape)[:32]}.npy"
    try:
        if not target.exists():
            _check_pillow()
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{start}.lock"):  # one process decodes, the others wait
                if not target.exists():
                    _write(target, paths, shape, resize)
                    for old in cache.glob(f"{start}-*.npy"):
                        if old != target:
                            old.unlink(missing_ok=True)
        pixels: Pixels = np.load(target, mmap_mode="c")
    except OSError as error:
        raise ConfigError(
            f"the decoded images cannot be kept in {cache}: {error.strerror or error}; make room "
            "or, on Linux, name another folder with XDG_CACHE_HOME"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{target} is damaged ({error}); delete it") from error
    return pixels


def _key(paths: Sequence[Path], folder: Path, shape: tuple[int, int, int]) -> str:
    """Return a digest that changes when a file does, without opening one."""
    digest = sha256(f"{shape}\n".encode())
    for path in paths:
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        line = f"{path.relative_to(folder).as_posix()}\0{found.st_size}\0{found.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _check_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"reading JPEG files needs the package pillow ({error}); pip install 'taut[images]'"
        ) from error


def _write(target: Path, paths: Sequence[Path], shape: tuple[int, int, int], resize: bool) -> None:
    """Write the pixels of all images, all or nothing."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    temporary = Path(name)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *shape)}
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    try:
        with os.fdopen(handle, "wb") as stream, ThreadPoolExecutor(threads) as pool:
            np.lib.format.write_array_header_1_0(stream, header)
            for at in range(0, len(paths), _CHUNK):
                chunk = paths[at : at + _CHUNK]
                decode = _resized if resize else _decode
                images = pool.map(decode, chunk, [shape] * len(chunk))
                stream.write(np.stack(list(images)).tobytes())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _decode(path: Path, shape: tuple[int, int, int]) -> Pixels:
    """Return the pixels ``(3, H, W)`` of a JPEG file of that size, from 0 to 255."""
    pixels = _read(path, None)
    if pixels.shape != shape:
        raise DataError(
            f"{path} has {pixels.shape[1]} x {pixels.shape[2]} pixels; published are "
            f"{shape[1]} x {shape[2]}"
        )
    return pixels


def _resized(path: Path, shape: tuple[int, int, int]) -> Pixels:
    """Return the pixels of a JPEG file of any size, resized to ``(3, H, W)``."""
    return _read(path, (shape[2], shape[1]))


def _read(path: Path, size: tuple[int, int] | None) -> Pixels:
    """Return the pixels ``(3, H, W)`` of a JPEG file, resized where a size (W, H) is given."""
    from PIL import Image

    try:
        # some files of ImageNet have the wrong ending
        with Image.open(path, formats=("JPEG",) if size is None else ("JPEG", "PNG")) as image:
            colours = image.convert("RGB")
            if size is not None and size != colours.size:
                colours = colours.resize(size, Image.Resampling.BILINEAR)
            pixels = np.asarray(colours)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded: {error}") from error
    return pixels.transpose(2, 0, 1)
