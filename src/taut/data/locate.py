"""Where data is looked for: a folder named by the caller, ``TAUT_DATA``, the user's cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from taut.data.describe import Dataset, File, Layout
from taut.errors import DataError

VARIABLE = "TAUT_DATA"
"""Environment variable that names the data folder."""

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Root:
    """A folder that is searched, and who named it."""

    origin: str
    path: Path

    def __str__(self) -> str:
        missing = "" if self.path.is_dir() else ": no such folder"
        return f"{self.path} ({self.origin}{missing})"


@dataclass(frozen=True)
class Place:
    """Where a part of a data set was found: one path per file of its layout."""

    folder: Path
    layout: Layout
    files: tuple[tuple[File, Path], ...]


def search_path(data_dir: PathLike | None = None) -> tuple[Root, ...]:
    """Return the folders searched, in order.

    ``data_dir`` when given, then the folder that ``TAUT_DATA`` names when set, then
    ``data`` in the user's cache folder of taut. Downloads go to the first.
    """
    from platformdirs import user_cache_dir

    roots = []
    if data_dir is not None:
        roots.append(Root("--data-dir", Path(data_dir).expanduser()))
    if named := os.environ.get(VARIABLE):
        roots.append(Root(VARIABLE, Path(named).expanduser()))
    roots.append(Root("cache", Path(user_cache_dir("taut")) / "data"))
    return tuple(roots)


def package_roots(package: str) -> tuple[Root, ...]:
    """Return the folders of an installed package, without importing it; empty if missing."""
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return ()
    return tuple(
        Root(f"the package {package}", Path(path)) for path in spec.submodule_search_locations
    )


def roots(dataset: Dataset, data_dir: PathLike | None = None) -> tuple[Root, ...]:
    """Return where a data set is looked for, in order."""
    if dataset.package is not None:
        return package_roots(dataset.package)
    return search_path(data_dir)


def find_in(dataset: Dataset, part: str, root: Path) -> Place | None:
    """Return where below ``root`` all files of a part are, or None."""
    for layout in dataset.layouts:
        for name in layout.folders:
            folder = root / name
            paths = [_on_disk(folder, file) for file in layout.parts[part]]
            found = tuple(
                (file, path)
                for file, path in zip(layout.parts[part], paths, strict=True)
                if path is not None
            )
            needs = layout.needs(part)[len(paths) :]
            if len(found) == len(paths) and all((folder / need).exists() for need in needs):
                return Place(folder, layout, found)
    return None


def _on_disk(folder: Path, file: File) -> Path | None:
    # The packed file comes first: it is the one that a download replaces when it is damaged.
    for name in (file.name, file.name.removesuffix(".gz")):
        if (folder / name).is_file():
            return folder / name
    return None


def find(dataset: Dataset, part: str, data_dir: PathLike | None = None) -> Place | None:
    """Return the first place that has all files of a part, or None. Opens no file."""
    for root in roots(dataset, data_dir):
        place = find_in(dataset, part, root.path)
        if place is not None:
            return place
    return None


def remedy(dataset: Dataset, data_dir: PathLike | None = None) -> str:
    """Return the command that brings a data set, for error messages."""
    if dataset.package is not None:
        return dataset.remedy if package_roots(dataset.package) else "pip install 'taut[digits]'"
    if dataset.archive:
        if dataset.remedy:
            return dataset.remedy
        import shlex  # only to word this hint

        target = shlex.quote(str(search_path(data_dir)[0].path))
        name = dataset.archive.rpartition("/")[2]
        return f"curl -LO {dataset.archive} && unzip -qo {name} -d {target}"
    where = "" if data_dir is None else f" --data-dir {os.fspath(data_dir)}"
    return f"taut data get {dataset.name}{where}"


def missing(dataset: Dataset, part: str, data_dir: PathLike | None = None) -> DataError:
    """Return the error for a part that is nowhere, with the places searched and what to do."""
    if dataset.package is not None:
        command = remedy(dataset)
        if not package_roots(dataset.package):
            return DataError(f"{dataset.name} comes with the package {dataset.package}: {command}")
        return DataError(
            f"the installed package {dataset.package} lacks {_names(dataset, part)}; "
            f"run `{command}`"
        )
    searched = ", ".join(str(root) for root in search_path(data_dir))
    return DataError(
        f"{dataset.name}: the {part} files ({_names(dataset, part)}) were not found; searched "
        f"{searched}. Run `{remedy(dataset, data_dir)}`, or name their folder with --data-dir or "
        f"{VARIABLE}"
    )


def _names(dataset: Dataset, part: str) -> str:
    return ", ".join(dataset.layouts[0].needs(part))
