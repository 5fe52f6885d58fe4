"""Fetch a data set: from mirrors in order, checked against published sums, never half written."""

from __future__ import annotations

import logging
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from taut.data.content import check_sum, fault
from taut.data.describe import Dataset, Download, File
from taut.data.locate import VARIABLE, PathLike, find, find_in, roots, search_path
from taut.data.progress import Meter
from taut.data.read import read_part
from taut.data.registry import find_dataset
from taut.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

_TIMEOUT = 30.0
"""Seconds without an answer after which a mirror counts as silent."""

_MODE = 0o644


def get(
    name: str | Dataset,
    data_dir: PathLike | None = None,
    base_url: str | None = None,
    console: Console | None = None,
) -> Path:
    """Download a data set unless it is there already, and return the folder it is in.

    Files go below the first place of the search path (``data_dir``, else the folder that
    ``TAUT_DATA`` names, else the user's cache), laid out as torchvision lays them out. A file
    gets its name only when it is whole and has the published SHA-256; a damaged one is
    replaced.

    Parameters
    ----------
    name
        Name of the data set, or a description.
    data_dir
        Data folder; made when missing.
    base_url
        Address to fetch from instead of the public mirrors; the file name is appended.
    console
        Where to show progress; ``None`` shows none.

    Raises
    ------
    ConfigError
        When the name is unknown.
    DataError
        When no mirror serves a good copy, with what each answered, or the folder
        cannot be written, or the set ships with a package that is not installed, or is one
        to fetch and unpack yourself (its files are checked where they are found).

    """
    dataset = find_dataset(name) if isinstance(name, str) else name
    if dataset.package is not None:
        return _shipped(dataset)
    if dataset.archive:
        return _unpacked(dataset, data_dir)
    root = search_path(data_dir)[0].path
    folder = _complete(dataset, root)
    if folder is not None:
        return folder
    mirrors = dataset.mirrors if base_url is None else (base_url,)
    for download in dataset.downloads:
        target = root / download.folder
        try:
            target.mkdir(parents=True, exist_ok=True)
            if download.members:
                _fetch_archive(download, root, mirrors, console)
            else:
                _fetch(download, target, mirrors, console)
        except OSError as error:
            raise DataError(
                f"cannot write to {target}: {error.strerror or error}; "
                f"name another folder with --data-dir or {VARIABLE}"
            ) from error
    folder = _complete(dataset, root)
    if folder is None:
        raise DataError(f"{dataset.name}: the files fetched to {root} do not make up the data set")
    return folder


def _complete(dataset: Dataset, root: Path) -> Path | None:
    """Return the folder below ``root`` that holds every part whole and good, or None."""
    places = [find_in(dataset, part, root) for part in dataset.cuts]
    for place in places:
        if place is None or any(fault(path, file) is not None for file, path in place.files):
            return None
    return None if places[0] is None else places[0].folder


def _shipped(dataset: Dataset) -> Path:
    """Return the folder of a set that ships with a package: there is nothing to download."""
    for part in dataset.cuts:
        read_part(dataset, part)  # raises when it is missing or damaged, and says what to run
    folders = [_complete(dataset, root.path) for root in roots(dataset)]
    return next(folder for folder in folders if folder is not None)


def _unpacked(dataset: Dataset, data_dir: PathLike | None) -> Path:
    """Return the folder of a set that the user fetches: it is found and read as a whole."""
    for part in dataset.cuts:
        read_part(dataset, part, data_dir)  # raises when it is not there, and says what to run
    places = [find(dataset, part, data_dir) for part in dataset.cuts]
    return next(place.folder for place in places if place is not None)


def _fetch_archive(
    download: Download, root: Path, mirrors: tuple[str, ...], console: Console | None
) -> None:
    """Fetch a tar archive and put its members in place."""
    brought = (root / download.name).exists()  # by the user, who may want to keep it
    archive = _fetch(download, root, mirrors, console)
    wanted = {f"{download.folder}/{member.name}": member for member in download.members}
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:  # in the order of the archive: going back would unpack it again
                file = wanted.get(entry.name)
                stream = tar.extractfile(entry) if file is not None else None
                if file is not None and stream is not None:
                    _put(bytearray(stream.read(file.size + 1)), file, root / download.folder)
                    del wanted[entry.name]
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error
    if wanted:
        raise DataError(f"{archive} lacks {', '.join(wanted)}")
    if not brought:
        archive.unlink()


def _put(content: bytearray, file: File, folder: Path) -> None:
    """Write a file under its own name once its content has proved right, all or nothing."""
    path = folder / file.name
    check_sum(content, file, path)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{file.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        temporary.chmod(_MODE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fetch(
    download: Download, folder: Path, mirrors: tuple[str, ...], console: Console | None
) -> Path:
    """Fetch one file from the first mirror that has a good copy."""
    import requests

    answers = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{download.name}"
        try:
            return _retrieve(url, download, folder, console)
        except (ValueError, requests.RequestException) as error:  # pooch: ValueError is checksum
            answers.append(f"{url}: {_reason(error)}")
    raise DataError(
        f"could not download {download.name}: {'; '.join(answers)}. Check the network and run the "
        f"command again, name another server with --base-url, or put {download.name} into "
        f"{folder} yourself"
    )


def _retrieve(url: str, download: Download, folder: Path, console: Console | None) -> Path:
    import pooch

    path = folder / download.name
    shown = nullcontext(False) if console is None else Meter(f"{url} -> {path}", console)
    with _quiet(pooch.get_logger()), shown as progress:
        pooch.retrieve(
            url,
            known_hash=f"sha256:{download.sha256}",
            fname=path.name,
            path=folder,
            processor=_readable,
            downloader=pooch.HTTPDownloader(
                progressbar=progress,
                chunk_size=1 << 16,
                timeout=_TIMEOUT,
                # A server must not unpack the file on the way.
                headers={"Accept-Encoding": "identity"},
            ),
        )
    return path


def _readable(name: str, action: str, _: object) -> str:
    """Let others read a fresh download, which pooch leaves to its owner alone."""
    if action != "fetch":
        Path(name).chmod(_MODE)
    return name


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Silence pooch's own lines; progress and errors are ours to show."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Say in a few words why a mirror failed."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer in {_TIMEOUT:g} seconds"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "the file has another checksum than the published one"
    return " ".join(str(error).split())[:120]
