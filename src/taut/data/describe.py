"""What a data set is: frozen descriptions that reader, downloader, command and docs read.

A data set is published in *parts* (``train`` and ``test``, each a fixed list of
files); users ask for *splits*, which are whole parts or fixed pieces of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Format = Literal["idx", "cifar-python", "cifar-binary", "digits", "image-tree"]


@dataclass(frozen=True)
class File:
    """One published file.

    Parameters
    ----------
    name
        As published, with ``.gz`` where it is published packed; the unpacked file is accepted too.
    size
        Bytes of the content once unpacked.
    sha256
        Of the content once unpacked, so that a file packed again still counts as the original.

    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Tree:
    """Folders of single images: too many for a checksum each.

    Parameters
    ----------
    classes
        Names of the folders of the classes; the label is the position.
    needs
        For each part, what has to be there below the folder of the layout.
    partial
        Parts that may have fewer images than were published.
    by_class
        All parts have a folder for each class with its images, of any size, which are resized.

    """

    classes: tuple[str, ...]
    needs: Mapping[str, tuple[str, ...]]
    partial: tuple[str, ...] = ()
    by_class: bool = False


@dataclass(frozen=True)
class Layout:
    """One way the files lie on disk.

    Parameters
    ----------
    format
        Which reader understands the files.
    folders
        Folders below a place of the search path, tried in order; ``"."`` is the place itself.
    parts
        The files of each part, in reading order (idx: images, then labels); none for a tree.
    tree
        Describes single images, for the format ``image-tree``.

    """

    format: Format
    folders: tuple[str, ...]
    parts: Mapping[str, tuple[File, ...]]
    tree: Tree | None = None

    def needs(self, part: str) -> tuple[str, ...]:
        """Return what a part needs below the folder: names of files, or parts of a tree."""
        named = tuple(file.name for file in self.parts[part])
        return named if self.tree is None else (*named, *self.tree.needs[part])


@dataclass(frozen=True)
class Download:
    """One file to fetch.

    Parameters
    ----------
    name
        Last piece of its address.
    sha256
        Of the file as it is served (packed).
    folder
        Folder below the data folder that it belongs in, as torchvision lays it out.
    members
        Empty for a plain file; for a tar archive, the files to take out of ``folder`` in it.

    """

    name: str
    sha256: str
    folder: str
    members: tuple[File, ...] = ()


@dataclass(frozen=True)
class Split:
    """What a user asks for.

    Parameters
    ----------
    part
        The published part it is taken from.
    size
        Number of images.
    pieces
        Which stratified pieces of the part (see :mod:`taut.data.splits`) it joins;
        empty for the whole part in file order.

    """

    part: str
    size: int
    pieces: tuple[int, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set by name.

    Parameters
    ----------
    name, title, source
        The name users type, a line that says what it is, and whom to cite.
    input_shape
        ``(channels, height, width)`` of the images that networks see.
    classes
        Class names; the label is the position.
    cuts
        For each part, the sizes of its stratified pieces; they add up to the part.
    splits
        The splits by name.
    layouts
        Accepted layouts, the preferred one first.
    augmentation
        Name of the usual training augmentation, a key of ``AUGMENTATIONS``.
    mirrors
        Base addresses that serve the downloads, tried in order.
    downloads
        What to fetch.
    package
        The PyPI package that ships the files; such a set has no downloads.
    remedy
        For a set with a package, the command that repairs an installation of it; for one with
        an archive behind a page, the command that opens the page.
    archive
        Address of the zip file of a set that users fetch and unpack themselves, or of the page
        with its files.
    margin
        Pixels of the files around the images that networks see, from which only random crops
        take any.
    family
        Name of the data set that has the same files, and so the same splits; empty for the
        set's own.

    """

    name: str
    title: str
    source: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    cuts: Mapping[str, tuple[int, ...]]
    splits: Mapping[str, Split]
    layouts: tuple[Layout, ...]
    augmentation: str = "none"
    mirrors: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    package: str | None = None
    remedy: str = ""
    archive: str = ""
    margin: int = 0
    family: str = ""

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of the images in the files."""
        channels, height, width = self.input_shape
        return channels, height + 2 * self.margin, width + 2 * self.margin

    def part_size(self, part: str) -> int:
        """Return the number of images that a part was published with."""
        return sum(self.cuts[part])
