"""Drawing a module's calls: by ``torch.fx`` where it can, by ``torch.export`` where it cannot."""

from __future__ import annotations

import inspect
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from taut.errors import ModelError, TautError, first_line, out_of_memory
from taut.graph.lower import lowered
from taut.graph.messages import place_of, untraceable
from taut.graph.probe import BATCH, version_of
from taut.operators.base import Shape
from taut.operators.registry import BUILDERS

_DRAWING = threading.RLock()
"""Drawing replaces methods of ``nn.Module`` for a while: one thread at a time."""

_STALE_HOOKS = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")


class Root(nn.Module):
    """A module called with images alone, the way taut calls it.

    It stands above the user's module, so that hooks, default arguments and ``*args`` work as they
    do in a call, and what drawing adds to its root is added here.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.was_training = any(module.training for module in model.modules())
        self.constants = nn.Module()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Return the model's logits, and refuse anything else."""
        found = self.model(x)
        if not isinstance(found, Tensor | fx.Proxy):
            raise ModelError(
                f"forward() returns a {type(found).__name__}; taut bounds one tensor of logits, "
                "(batch, classes): wrap the model in a module that returns the logits alone"
            )
        return found


@dataclass(frozen=True)
class Drawing:
    """The calls of a module as a graph over ``root``, whose one input is a batch of images."""

    root: Root
    graph: fx.Graph
    exported: bool

    def images(self, batch: int, shape: Shape) -> Tensor:
        """Return a batch of zeros of the model's type, on its device."""
        return example(self.root, batch, shape)


def example(root: nn.Module, batch: int, shape: Shape) -> Tensor:
    """Return a batch of zeros of a module's type, on its device."""
    like: Tensor = next(root.parameters(), torch.zeros(()))
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.zeros(batch, *shape, dtype=dtype, device=like.device)


def run(root: Root, images: Tensor) -> Tensor:
    """Call a module on images.

    Raises :class:`~taut.errors.ModelError`, with the user's line, for whatever the call raises
    but for memory that runs out.
    """
    try:
        with torch.no_grad():
            found: Tensor = root(images)
    except TautError:
        raise
    except Exception as error:  # whatever the user's code raises
        if out_of_memory(error):
            raise
        batch, *shape = images.shape
        many = f" in a batch of {batch}"
        raise ModelError(
            f"the model does not accept images of shape {tuple(shape)}{many}{place_of(error)}: "
            f"{first_line(error)}"
        ) from error
    return found


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what ``torch.compile`` or a data-parallel wrapper was made of."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def symbolic(root: Root) -> Drawing | Exception:
    """Draw a module by ``torch.fx``, in its own mode; return the error where fx cannot."""
    try:
        with _DRAWING, as_it_was(root):
            return Drawing(root, _Tracer().trace(root), exported=False)
    except TautError:
        raise
    except Exception as error:  # fx raises a zoo of types; all mean it cannot trace the module
        if out_of_memory(error):
            raise
        return error


def exported(root: Root, shape: Shape, why: Exception) -> Drawing:
    """Draw a module in evaluation mode by ``torch.export``; ``why`` is why fx could not.

    Raises :class:`~taut.errors.ModelError` where export cannot either; it names the user's line.
    """
    run(root, example(root, BATCH, shape))
    try:
        with _DRAWING, as_it_was(root), _quietly():
            program = torch.export.export(
                root,
                (example(root, BATCH, shape),),
                dynamic_shapes={"x": {0: torch.export.Dim.AUTO}},
                strict=False,
            )
    except TautError:
        raise
    except Exception as error:  # export raises as many
        if out_of_memory(error):
            raise
        raise untraceable(type(root.model).__name__, why, error) from error
    return Drawing(root, lowered(program, root), exported=True)


def refuse_opaque(model: nn.Module) -> None:
    """Refuse modules that no way of drawing shows as they are.

    Raises :class:`~taut.errors.ModelError` for more than one input, scripted modules, weights
    computed by hooks and parameters that have no shape yet.
    """
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError as error:
        raise ModelError(
            f"forward() cannot be called with one image tensor alone ({error}); taut bounds "
            "models of one input: give further arguments defaults"
        ) from error
    except ValueError:  # no signature to look at
        pass
    for path, module in model.named_modules():
        name = f"{path!r} ({type(module).__name__})" if path else type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{name} is compiled by torch.jit, which hides its operations; use the module it "
                "was made of"
            )
        if any(isinstance(p, UninitializedParameter) for p in module._parameters.values()):
            raise ModelError(f"{name} has no weights yet; call the model once on a batch of images")
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__ in _STALE_HOOKS:
                raise ModelError(
                    f"{name} uses {type(hook).__module__}, which stores a weight of the last "
                    "call; use torch.nn.utils.parametrizations instead"
                )


class _Tracer(fx.Tracer):
    """Draws modules that have a builder as one node, and looks into all others."""

    record_stack_traces = True
    proxy_buffer_attributes = True  # else an expression of buffers would be frozen

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node."""
        if isinstance(m, parametrize.ParametrizationList):
            return True
        if (m._forward_hooks or m._forward_pre_hooks) and not self._is_model(m):
            return False
        kind = parametrize.type_before_parametrizations(m)
        if kind in BUILDERS:
            return True
        return kind.__module__.startswith("torch.nn.modules") and kind is not nn.Sequential

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Call a submodule; wrappers are passed through.

        Hooks are drawn as well, but for those of the whole model: most of them only watch, and
        where they do more the graph is found to differ from the model. Calls of other threads,
        which come here as well, are theirs alone.
        """
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        inner = unwrapped(m)
        if inner is not m:
            return inner(*args, **kwargs)
        if self._is_model(m):
            forward = m.forward
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return what a module's attribute is while it is drawn; see :meth:`call_module`."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def _is_model(self, module: nn.Module) -> bool:
        return isinstance(self.root, Root) and module is self.root.model

    def create_arg(self, a: Any) -> Any:
        """Turn an argument into one of a node."""
        if isinstance(a, Tensor) and a.grad_fn is not None:
            raise ValueError("a tensor computed from parameters outside of forward()")
        return super().create_arg(a)


@contextmanager
def as_it_was(root: Root) -> Iterator[None]:
    """Undo what drawing and calling a module does to it: modes, and what forward() stores."""
    seen = [
        (module, dict(module.__dict__), [dict(kept) for kept in _kept(module)])
        for module in root.modules()
        if module is not root and module is not root.constants
    ]
    contents = [(buffer, version_of(buffer), buffer.clone()) for buffer in root.buffers()]
    try:
        for module, _, _ in seen:  # what module.compile() set; it would hide the calls
            module.__dict__.pop("_compiled_call_impl", None)
        yield
    finally:
        for module, attributes, kept in seen:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for now, before in zip(_kept(module), kept, strict=True):
                now.clear()
                now.update(before)
        with torch.no_grad():
            for buffer, version, content in contents:
                if version_of(buffer) != version:
                    buffer.copy_(content)


def _kept(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._modules


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what export warns of, logs and prints to itself; errors come through."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
