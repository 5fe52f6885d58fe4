"""The run folder: one folder per run, which holds everything that run made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from taut.errors import RunError
from taut.store import checkpoint, metrics, summary, values, weights
from taut.store.atomic import is_leftover, remove_leftovers, sync_folder
from taut.store.config import difference, make_config, read_config, write_config
from taut.store.events import EventLog
from taut.store.locking import acquire

if TYPE_CHECKING:
    from torch import Tensor, nn

    from taut.store.journal import Journal

_LOCK = ".lock"


class RunFolder:
    """A run's folder, open for reading, or for writing with its lock held.

    Make one with :meth:`create` or :meth:`open`, best in a ``with`` statement.
    Each file's format stands in the module that writes it:

    ==========================  ============================
    ``config.json``             :mod:`taut.store.config`
    ``metrics.jsonl``           :mod:`taut.store.metrics`
    ``events.out.tfevents.*``   :mod:`taut.store.events`
    ``model.safetensors``       :mod:`taut.store.weights`
    ``checkpoint.pt``           :mod:`taut.store.checkpoint`
    ``journal.sqlite``          :mod:`taut.store.journal`
    ``summary.json``            :mod:`taut.store.summary`
    ``.lock``                   empty; locked by the one process that writes
    ``.*.tmp``                  left by a killed writer; the next one deletes them
    ==========================  ============================

    The lock is the operating system's and dies with its process: a killed run
    does not block the one that resumes it.

    Notes
    -----
    A training loop ends epoch ``e`` with :meth:`append_metrics` and then
    :meth:`save_checkpoint`, in this order. Killed at any moment, it goes on from
    what :meth:`resume` returns, with ``metrics.jsonl`` rewound to that epoch.

    """

    def __init__(self, path: Path, config: Mapping[str, Any], lock: FileLock | None) -> None:
        self._path = path
        self._config = config
        self._lock = lock
        self._events: EventLog | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        kind: str,
        config: Mapping[str, object],
        seed: int,
        *,
        exist_ok_same: bool = False,
    ) -> RunFolder:
        """Make the folder of a new run and open it for writing.

        Parameters
        ----------
        path
            Folder that is empty or does not exist; parents are made.
        kind
            The command's word for the run, such as ``train``.
        config
            The run's whole configuration (``recipe`` in ``config.json``).
        seed
            The seed all generators are derived from.
        exist_ok_same
            Open the run that is there when its kind, configuration and seed are the same.

        Raises
        ------
        RunError
            When the folder holds another run or other files, another process
            writes to it, or it cannot be made.

        """
        path = Path(path)
        new = make_config(kind, config, seed)
        _refuse_foreign(path)  # before the lock file is put into somebody's folder
        try:
            path.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent)
        except OSError as error:
            raise RunError(
                f"cannot make the folder {path}: {error.strerror or error}; choose another --out"
            ) from error
        lock = acquire(path / _LOCK, path)
        try:
            _refuse_foreign(path)
            target = path / "config.json"
            held = _same_or_refuse(path, new, exist_ok_same) if target.exists() else None
            remove_leftovers(path)
            if held is None:
                write_config(target, new)
        except BaseException:
            lock.release()
            raise
        return cls(path, new if held is None else held, lock)

    @classmethod
    def open(cls, path: str | Path, kind: str | None = None, *, write: bool = False) -> RunFolder:
        """Open the run in ``path``, checked; ``write=True`` takes its lock.

        Raises
        ------
        RunError
            When there is no run, its ``config.json`` is damaged or of a newer
            layout, it is not of ``kind``, or another process writes to it.

        """
        path = Path(path)
        config = read_config(path / "config.json")
        if kind is not None and config["kind"] != kind:
            raise RunError(
                f"{path} holds a {config['kind']} run, not a {kind} run; give the folder of one"
            )
        run = cls(path, config, acquire(path / _LOCK, path) if write else None)
        if write:
            remove_leftovers(path)
        return run

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def config(self) -> Mapping[str, Any]:
        """All of ``config.json``, deeply read-only (lists as tuples)."""
        return self._config

    @property
    def kind(self) -> str:
        """The run's kind, such as ``train``."""
        return str(self._config["kind"])

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The configuration the run was created with, deeply read-only."""
        recipe: Mapping[str, Any] = self._config["recipe"]
        return recipe

    @property
    def seed(self) -> int:
        """The seed all generators are derived from."""
        return int(self._config["seed"])

    @property
    def writable(self) -> bool:
        """Whether the folder is open for writing."""
        return self._lock is not None

    def close(self) -> None:
        """Close the event file and give the lock back; reading stays possible."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Metrics

    def append_metrics(self, row: Mapping[str, object]) -> None:
        """Append one epoch's ``row`` to ``metrics.jsonl`` and to TensorBoard's events.

        ``row`` holds ``epoch`` (an integer from 1, past the last one) and plain,
        possibly nested values; NaN and infinities are kept. On the disk on return.
        """
        self._check_writable()
        metrics.append_row(self._path / "metrics.jsonl", row)
        plain = values.from_json(values.to_json(row, "the metrics row"))
        if self._events is None:
            self._events = EventLog(self._path, plain["epoch"])
        self._events.add(plain["epoch"], metrics.scalars(plain))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``, without a line a killed writer left half done."""
        return metrics.read_rows(self._path / "metrics.jsonl")

    def rewind_metrics(self, epoch: int) -> int:
        """Drop the rows past ``epoch`` and a torn line; return how many rows went.

        The points of those rows leave TensorBoard with the next :meth:`append_metrics`.
        """
        self._check_writable()
        if self._events is not None:  # the next row opens a new file, which withdraws them
            self._events.close()
            self._events = None
        return metrics.rewind_rows(self._path / "metrics.jsonl", epoch)

    # Weights

    def save_weights(
        self, state_dict: Mapping[str, Tensor], architecture: Mapping[str, object]
    ) -> None:
        """Replace ``model.safetensors`` (see :func:`taut.store.weights.save_weights`)."""
        self._check_writable()
        weights.save_weights(self._path / "model.safetensors", state_dict, architecture)

    def load_weights(self, model: nn.Module) -> None:
        """Copy ``model.safetensors`` into ``model``; :func:`taut.store.weights.load_weights`."""
        weights.load_weights(self._path / "model.safetensors", model)

    def read_architecture(self) -> Mapping[str, Any]:
        """Return the architecture ``model.safetensors`` names."""
        return weights.read_architecture(self._path / "model.safetensors")

    # Checkpoint

    def save_checkpoint(self, state: Mapping[str, object]) -> None:
        """Replace ``checkpoint.pt``; ``state`` holds ``epoch`` and all the loop needs to go on."""
        self._check_writable()
        rows = len(self.read_metrics())
        checkpoint.write_checkpoint(self._path / "checkpoint.pt", state, rows)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the last checkpoint's state, tensors on the CPU; ``None`` before the first."""
        found = checkpoint.read_checkpoint(self._path / "checkpoint.pt")
        return None if found is None else found.state

    def resume(self) -> dict[str, Any] | None:
        """Rewind the metrics to the last checkpoint and return its state (``None``: start over).

        Raises
        ------
        RunError
            When the checkpoint is damaged, or ``metrics.jsonl`` lost rows it had.

        """
        self._check_writable()
        found = checkpoint.read_checkpoint(self._path / "checkpoint.pt")
        self.rewind_metrics(0 if found is None else found.state["epoch"])
        rows = len(self.read_metrics())
        if found is not None and rows < found.metrics_rows:
            raise RunError(
                f"{self._path / 'metrics.jsonl'} has {rows} rows and the checkpoint was written "
                f"after {found.metrics_rows}; {metrics.ADVICE}"
            )
        return None if found is None else found.state

    # Certification

    def journal(self, meta: Mapping[str, object] | None = None) -> Journal:
        """Open ``journal.sqlite``: for writing with ``meta``, for reading without."""
        from taut.store.journal import Journal

        if meta is not None:
            self._check_writable()
        return Journal(self._path / "journal.sqlite", meta)

    def write_summary(self, figures: Mapping[str, object]) -> None:
        """Replace ``summary.json`` (required keys: :mod:`taut.store.summary`)."""
        self._check_writable()
        summary.write_summary(self._path / "summary.json", figures)

    def read_summary(self) -> dict[str, Any]:
        """Return the figures in ``summary.json``."""
        return summary.read_summary(self._path / "summary.json")

    def _check_writable(self) -> None:
        if self._lock is None:
            raise RunError(f"{self._path} is open for reading; open it with write=True")


def _refuse_foreign(path: Path) -> None:
    """Refuse a path that is a file, or a folder with files but no run."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, not a folder; choose another --out")
    if not path.is_dir() or (path / "config.json").exists():
        return
    names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in names if name != _LOCK and not is_leftover(name)]
    if foreign:
        raise RunError(f"{path} holds other files ({foreign[0]}) and no run; choose another --out")


def _same_or_refuse(path: Path, new: Mapping[str, Any], same_ok: bool) -> Mapping[str, Any]:
    held = read_config(path / "config.json")
    advice = "choose another --out"
    if held["kind"] == "train":
        advice += f", or resume it with `taut train --resume {path}`"
    if not same_ok:
        raise RunError(f"{path} already holds a {held['kind']} run; {advice}")
    for key in ("kind", "recipe", "seed"):
        found = difference(held[key], new[key], key)
        if found is not None:
            raise RunError(f"{path} holds another run ({found}); {advice}")
    return held
