"""Modules whose Python code asks for sizes or types are traced by export, to the same graph."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graph_forms import EITHER_WAY, FORMS, Asks
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import taut.graph.draw
from taut.bounds import IBP, Backward
from taut.errors import ModelError, UnsupportedOperator
from taut.graph import Graph, trace
from taut.operators.ramp import ParamRamp
from taut.region import Box
from tests.soundness.harness import generator, random_module, uniform


class Layers(nn.Module):
    """A function of the module itself and the image."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.function = function
        self.lin = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.ramp = ParamRamp((4,), 0.2, 0.5)
        self.weight = nn.Parameter(torch.rand(4))
        self.plain = torch.rand(4)
        self.register_buffer("level", torch.rand(4))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record every lowered program."""
    seen: list[object] = []
    lowered = taut.graph.draw.lowered

    def recording(program: torch.export.ExportedProgram, root: nn.Module) -> torch.fx.Graph:
        seen.append(program)
        return lowered(program, root)

    monkeypatch.setattr(taut.graph.draw, "lowered", recording)
    return seen


def agree(graph: Graph, module: nn.Module, shape: tuple[int, ...]) -> None:
    for batch in (1, 4):
        x = 4 * uniform(generator(batch), batch, *shape) - 2
        torch.testing.assert_close(graph.instance()(x), module(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_comes_through_export(name: str, exports: list[object]) -> None:
    inner, shape = FORMS[name]
    module = Asks(inner).eval()
    graph = trace(module, shape)
    assert len(exports) == 1
    agree(graph, module, shape)


def rows(x: Tensor) -> Tensor:
    return torch.cat([x[:, i : i + 1] * (i + 1) for i in range(x.size(1))], 1)


QUESTIONS: dict[str, Callable[[Layers, Tensor], Tensor]] = {
    "shape": lambda m, x: m.lin(x) if x.shape[1] == 4 else x,
    "len": lambda m, x: m.lin(x).view(len(x), -1),
    "f-string": lambda m, x: m.lin(x) if f"{x.shape[1]}" == "4" else x,
    "isinstance": lambda m, x: m.lin(x) if isinstance(x, Tensor) else x,
    "number": lambda m, x: m.lin(x) if isinstance(x.shape[1], int) else x,
    "loop": lambda m, x: rows(m.lin(x)),
    "dim": lambda m, x: m.lin(x) if x.dim() == 2 else x.flatten(1),
    "type": lambda m, x: m.lin(x.to(m.weight.dtype)) if x.is_floating_point() else m.lin(x),
    "double": lambda m, x: m.lin(x.double()) if x.dtype == torch.float64 else x,
    "device": lambda m, x: m.lin(x.to(m.weight.device)) if x.device.type == "cpu" else -x,
    "constant": lambda m, x: x - torch.tensor([1.0, 2, 3, len(x.shape)]),
    "padded": lambda m, x: m.lin(torch.cat([x[:, 2:], torch.zeros(x.shape[0], 2)], 1)),
    "ones": lambda m, x: m.lin(x) + torch.ones(x.shape[0], 1),
}
"""What fx cannot answer."""

OPERATIONS: dict[str, Callable[[Layers, Tensor], Tensor]] = {
    "sizes": lambda m, x: m.lin(x).view(x.shape[0], 2, 2).reshape((x.size(0), -1)).view(x.shape),
    "elements": lambda m, x: m.lin(x).view(x.size(0), x.numel() // x.size(0)),
    "rest": lambda m, x: m.lin(x).view(-1, x.shape[1] // 2, 2).expand(x.shape[0], 2, 2).mean(2),
    "buffers": lambda m, x: x - m.level.view(1, -1) * m.plain + (m.level - 0.5).abs(),
    "parameters": lambda m, x: F.linear(x, m.lin.weight.tanh() * m.weight[:, None], -m.weight),
    "positions": lambda m, x: m.lin(x) * torch.arange(x.shape[1]),
    "checkpoint": lambda m, x: checkpoint(m.lin, x, use_reentrant=False),
    "no effect": lambda m, x: m.drop(x).contiguous().clone(),
    "norm": lambda m, x: m.norm(m.drop(m.lin(x))),
    "functional norm": lambda m, x: F.batch_norm(
        x, m.level, m.level + 1, m.weight, None, False, 0.1, 1e-3
    ),
    "in place": lambda m, x: m.lin(x).relu_().mul_(2.0).add_(m.weight),
    "relu": lambda m, x: F.relu(m.lin(x), inplace=True) + x.clamp(min=0.2),
    "leaky": lambda m, x: F.leaky_relu(m.lin(x), 0.2, True) - F.leaky_relu(x, 0.3),
    "clips": lambda m, x: F.relu6(m.lin(x), True) + x.clamp(-0.2, 0.3) + F.hardtanh(x, -1, 0.5),
    "prelu": lambda m, x: F.prelu(m.lin(x), m.weight),
    "smooth": lambda m, x: torch.sigmoid(x) + x.tanh() + F.softplus(m.lin(x), 2.0, 5.0),
    "gated": lambda m, x: F.silu(m.lin(x), True) + F.gelu(x) + F.gelu(x, approximate="tanh"),
    "hard": lambda m, x: F.hardswish(m.lin(x)) + F.hardsigmoid(x) + x.abs(),
    "convex": lambda m, x: (x.exp() + 1).log() + (x.abs() + 1).sqrt() + torch.reciprocal(x**2 + 1),
    "ramp": lambda m, x: m.ramp(m.lin(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", QUESTIONS)
def test_python_questions_are_answered(name: str, exports: list[object]) -> None:
    module = Layers(QUESTIONS[name]).eval()
    graph = trace(module, (4,))
    assert len(exports) == 1
    agree(graph, module, (4,))


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_ways_draw_the_same_graph(name: str, exports: list[object]) -> None:
    module = Layers(OPERATIONS[name]).eval()
    graph, other = trace(module, (4,)), trace(Asks(module), (4,))
    assert len(exports) == 1
    agree(graph, module, (4,))
    agree(other, module, (4,))
    with torch.no_grad():  # both read parameters and buffers when they are called
        for value in (*module.parameters(), module.level):
            value.mul_(1.3).add_(0.1)
    agree(graph, module, (4,))
    agree(other, module, (4,))


@pytest.mark.parametrize("kind", ["conv", "norm", "residual"])
def test_bounds_and_gradients_do_not_depend_on_the_way(kind: str) -> None:
    module, shape = random_module(kind, 7)
    ways = trace(module, shape), trace(Asks(module), shape)
    box = Box.around(uniform(generator(7), 3, *shape), 0.05)
    for method in (IBP(), Backward("ibp", "adaptive")):
        found, slopes = [], []
        for graph in ways:
            bounds = method.outputs(graph.instance(), box)
            module.zero_grad()
            (bounds.upper - bounds.lower).sum().backward()
            found.append(bounds)
            slopes.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
        torch.testing.assert_close(found[0].lower, found[1].lower)
        torch.testing.assert_close(found[0].upper, found[1].upper)
        assert len(slopes[0]) > 0
        torch.testing.assert_close(slopes[0], slopes[1])


def test_batch_norm_and_dropout_modules_keep_their_mode() -> None:
    inner, shape = random_module("norm", 4)
    inner.insert(6, nn.Dropout2d(0.3))  # type: ignore[operator]
    module = Asks(inner)
    twin = copy.deepcopy(module)
    graph = trace(module, shape)
    module.train()
    twin.train()
    x = uniform(generator(4), 6, *shape)
    torch.manual_seed(1)
    logits, network = graph.clean(x)
    torch.manual_seed(1)
    torch.testing.assert_close(logits, twin(x))
    for own, other in zip(module.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(own, other)
    assert not torch.allclose(graph.instance()(x), network(x))  # running, batch statistics
    module.eval()
    torch.testing.assert_close(graph.clean(x)[0], module(x))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: F.dropout(m.lin(x), 0.5, m.training),
        lambda m, x: F.batch_norm(x, m.level, m.level + 1, training=m.training),
    ],
    ids=["dropout", "batch norm"],
)
@EITHER_WAY
def test_a_mode_that_cannot_be_read_is_refused_in_training(
    call: Callable[[Layers, Tensor], Tensor], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    module = wrap(Layers(call)).eval()
    graph = trace(module, (4,))
    x = uniform(generator(5), 3, 4)
    torch.testing.assert_close(graph.clean(x)[0], module(x))
    module.train()
    with pytest.raises(ModelError, match=r"training mode.*nn\.Dropout"):
        graph.clean(x)


def test_a_branch_on_the_mode_is_traced_as_evaluated_and_refused_in_training() -> None:
    module = Layers(lambda m, x: x * 3 if m.training else m.lin(x)).train()
    graph = trace(module, (4,))
    x = uniform(generator(5), 3, 4)
    torch.testing.assert_close(graph.instance()(x), module.lin(x))
    with pytest.raises(ModelError, match=r"training mode.*self\.training"):
        graph.clean(x)


def test_a_call_that_is_never_in_training_is_fine_in_training() -> None:
    module = Layers(lambda m, x: F.batch_norm(x, m.level, m.level + 1, training=False)).train()
    x = uniform(generator(5), 3, 4)
    torch.testing.assert_close(trace(module, (4,)).clean(x)[0], module(x))


SIZES: dict[str, tuple[Callable[[Layers, Tensor], Tensor], type[ModelError], str]] = {
    "times the batch": (lambda m, x: x * x.shape[0], UnsupportedOperator, "how many images"),
    "over the batch": (lambda m, x: x / x.size(0), UnsupportedOperator, "how many images"),
    "half the batch": (lambda m, x: x * (x.size(0) / 2), UnsupportedOperator, "how many images"),
    "twice in a size": (
        lambda m, x: x.view(x.size(0), 1, x.size(0) + 1).flatten(1),
        UnsupportedOperator,
        "how many images",
    ),
    "times len": (lambda m, x: x * len(x), ModelError, "a batch of 1 images"),
    "one image": (lambda m, x: -x if x.shape[0] == 1 else x, ModelError, "a batch of 1 images"),
    "even": (lambda m, x: -x if x.shape[0] % 2 == 0 else x, ModelError, "a batch of 2 images"),
    "many": (lambda m, x: -x if x.shape[0] > 16 else x, ModelError, "2 to 16 images"),
    "row by row": (lambda m, x: torch.stack([2 * r for r in x]), UnsupportedOperator, "batch"),
    "places": (
        lambda m, x: x + torch.arange(x.shape[0])[:, None],
        UnsupportedOperator,
        "from image to image",
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_what_depends_on_the_number_of_images_is_refused(name: str) -> None:
    function, error, words = SIZES[name]
    with pytest.raises(error, match=words) as caught:
        trace(Layers(function).eval(), (4,))
    assert "\n" not in str(caught.value)


class Keeps(nn.Module):
    """Writes attributes and counts its calls; both are none of tracing's business."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.drop = nn.Linear(4, 3), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.lin(x)
        return self.drop(self.seen)


@pytest.mark.parametrize("wrap", [nn.Sequential, Asks], ids=["fx", "export"])
def test_tracing_leaves_modes_attributes_and_buffers_alone(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    module = wrap(Keeps()).train()
    next(iter(module.children())).drop.eval()  # a mode of its own
    state = copy.deepcopy(module.state_dict())
    attributes = {path: dict(m.__dict__) for path, m in module.named_modules()}
    trace(module, (4,))
    assert {path: m.__dict__ for path, m in module.named_modules()} == attributes
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert all(isinstance(value, Tensor) for value in module.state_dict().values())


def test_tracing_within_inference_mode_is_fine() -> None:
    module, shape = random_module("residual", 2)
    x = uniform(generator(2), 2, *shape)
    with torch.inference_mode():
        for each in (module, Asks(module)):
            torch.testing.assert_close(trace(each, shape).instance()(x), module(x))
