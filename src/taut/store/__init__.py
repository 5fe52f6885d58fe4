"""The run folder: configuration, metrics, weights, checkpoint, verdicts and summary.

:class:`RunFolder` is the door; the functions below it work on single files. The
page of each module gives the exact format of the file it writes.
"""

from taut.store.atomic import write_atomic
from taut.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from taut.store.config import versions
from taut.store.folder import RunFolder
from taut.store.hashing import hash_weights
from taut.store.journal import Journal
from taut.store.summary import check_summary, read_summary, write_summary
from taut.store.weights import load_weights, read_architecture, read_weights, save_weights

__all__ = [
    "Checkpoint",
    "Journal",
    "RunFolder",
    "check_summary",
    "hash_weights",
    "load_weights",
    "read_architecture",
    "read_checkpoint",
    "read_summary",
    "read_weights",
    "save_weights",
    "versions",
    "write_atomic",
    "write_checkpoint",
    "write_summary",
]
