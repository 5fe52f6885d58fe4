"""Deciding an instance that lies in files: an ONNX network and a VNN-LIB property."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from taut.errors import ConfigError
from taut.verify.instance import Procedure, decide
from taut.verify.outcome import Outcome


def present(path: Path) -> Path:
    """Return the path itself, or with ``.gz`` added where only that file is there."""
    if not path.name:
        return path
    packed = path.with_name(f"{path.name}.gz")
    return packed if not path.is_file() and packed.is_file() else path


def decide_files(
    network: Path,
    property_file: Path,
    procedure: Procedure = Procedure(),  # noqa: B008 - frozen
    on_stage: Callable[[str], None] | None = None,
) -> Outcome:
    """Decide a property of a network; a counterexample has to satisfy ONNX Runtime too.

    Parameters
    ----------
    network
        A ``.onnx`` file.
    property_file
        A ``.vnnlib`` file. Of either the file with ``.gz`` added will do.
    procedure
        Stages, attack, time, seed; the time counts from after the files are read.
    on_stage
        Called with the name of each stage before it begins.

    Raises
    ------
    ModelError
        When the network is missing, damaged or of unsupported operators.
    PropertyError
        When the property is missing, damaged, not understood or about another network.
    ConfigError
        When a package that the files need is not installed.

    """
    from taut.api.loading import is_onnx
    from taut.formats.onnx import load_onnx, runtime
    from taut.formats.vnnlib import read_vnnlib

    if not is_onnx(network):
        raise ConfigError(f"{network} is no ONNX file by its name; give a .onnx or .onnx.gz file")
    source = present(network)
    model = load_onnx(source)
    asked = read_vnnlib(present(property_file))
    asked.check_fits(model.input_shape, model.output_shape)
    other = runtime(source)
    return decide(
        model,
        model.input_shape,
        asked.cases,
        procedure,
        evaluators=() if other is None else (other,),
        on_stage=on_stage,
    )
