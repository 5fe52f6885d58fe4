"""Everything a certification is given is checked before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taut.attacks import evaluating
from taut.errors import DataError, ModelError, first_line, out_of_memory
from taut.property import check_labels

_PRECISIONS = (torch.float32, torch.float64)


def check_images(x: Tensor, data_range: tuple[float, float] | None) -> None:
    """Raise :class:`DataError` naming the first image that is not finite or leaves the range."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or len(x) == 0:
        kind = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(
            "images must be a non-empty floating-point tensor (batch, *shape) of raw pixels, "
            f"got {kind}; divide uint8 pixels by 255"
        )
    flat = x.detach().flatten(1)
    if (bad := ~torch.isfinite(flat).all(1)).any():
        raise DataError(f"image {_first(bad)} holds NaN or infinity")
    if data_range is None:
        return
    low, high = data_range
    if (bad := ((flat < low) | (flat > high)).any(1)).any():
        row = flat[_first(bad)]
        raise DataError(
            f"image {_first(bad)} leaves the pixel range [{low:g}, {high:g}]: its values go from "
            f"{float(row.min()):g} to {float(row.max()):g}; scale the images (normalisation "
            "belongs into the model) or set data_range=None"
        )


def _first(bad: Tensor) -> int:
    return int(bad.nonzero()[0])


def check_indices(indices: Sequence[int] | None, count: int) -> list[int]:
    """Return the positions of the images in their split; 0 .. count - 1 by default."""
    if indices is None:
        return list(range(count))
    found = [int(i) for i in indices]
    if len(found) != count or len(set(found)) != count:
        raise DataError(
            f"indices must be {count} different positions, one per image; got {len(found)}, "
            f"{len(set(found))} of them different"
        )
    return found


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and precision of the model's weights; CPU and float32 without any."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    kinds = {t.dtype for t in tensors}
    if len(kinds) > 1 or not kinds <= set(_PRECISIONS):
        names = ", ".join(sorted(map(str, kinds)))
        raise ModelError(
            f"the model's weights are {names}; certification needs one of float32 and float64: "
            "convert it with model.float()"
        )
    if not tensors:
        return torch.device("cpu"), torch.float32
    return tensors[0].device, tensors[0].dtype


def check_model(model: nn.Module, image: Tensor, y: Tensor, count: int) -> None:
    """Evaluate one image (1, *shape); the logits must be (1, K) and ``y`` hold ``count`` labels."""
    shape = tuple(image.shape[1:])
    try:
        with evaluating(model), torch.no_grad():
            logits = model(image)
    except (RuntimeError, ValueError, IndexError) as error:
        if out_of_memory(error):
            return  # the cascade says so, image by image
        raise ModelError(
            f"the model does not accept images of shape {shape}: {first_line(error)}"
        ) from error
    except MemoryError:
        return
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"the model maps one image of shape {shape} to {kind}; a classifier returns logits "
            "of shape (1, classes)"
        )
    if logits.shape[1] < 2:
        raise ModelError(f"the model has {logits.shape[1]} class; a classifier has at least two")
    check_labels(y, logits.shape[1], count)
