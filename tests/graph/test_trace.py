"""Tracing: the graph computes what the module computes, and refuses what it cannot bound."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import taut.models
from taut.errors import ModelError, UnsupportedOperator
from taut.graph import trace
from tests.soundness.harness import KINDS, LARGE, generator, random_module, uniform


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class Functional(nn.Module):
    """Everything in functional form, with expressions of parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.weight = nn.Parameter(torch.randn(5, 36))
        self.register_buffer("mean", torch.tensor([0.2, 0.4]))
        self.register_buffer("running", torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.div(x - self.mean.view(1, -1, 1, 1), 0.3)
        h = F.conv2d(x, self.kernel * 2.0, stride=2, padding=1)
        h = F.batch_norm(h, self.running - 0.5, self.running + 0.5, training=False)
        h = F.relu(h).reshape(x.shape[0], -1)
        return 1.5 - F.linear(h, self.weight.abs()) * 0.5


class Dense(nn.Module):
    """A node that two later nodes read, and an output used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.second(h + x) + self.second(h)


@pytest.mark.parametrize("kind", KINDS)
def test_graph_computes_what_the_module_computes(kind: str) -> None:
    module, shape = random_module(kind, 1)
    x = uniform(generator(1), 5, *shape)
    same(trace(module, shape).instance()(x), module(x))


@pytest.mark.parametrize(
    ("module", "shape"), [(Functional(), (2, 6, 6)), (Dense(), (6,))], ids=["functional", "dense"]
)
def test_functional_and_shared_forms(module: nn.Module, shape: tuple[int, ...]) -> None:
    module = module.double().eval()
    x = uniform(generator(2), 4, *shape)
    same(trace(module, shape).instance()(x), module(x))


@pytest.mark.parametrize("name", sorted({*taut.models.MODELS} - {*LARGE}))
def test_every_network_of_the_zoo_traces(name: str) -> None:
    """Those at ImageNet's size are compared where they are bounded, in soundness/test_zoo.py."""
    description = taut.models.MODELS[name]
    torch.manual_seed(0)
    module = taut.models.build(name).eval()
    x = torch.rand(1, *description.input_shape)
    torch.testing.assert_close(
        trace(module, description.input_shape).instance()(x), module(x), rtol=1e-4, atol=1e-5
    )


def test_parameters_stay_live() -> None:
    module, shape = random_module("conv", 3)
    graph = trace(module, shape)
    x = uniform(generator(3), 2, *shape)
    before = graph.instance()(x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.3)
    after = graph.instance()(x)
    assert not torch.allclose(before, after)
    same(after, module(x))
    graph.instance()(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("kind", ["norm", "residual"])
def test_clean_pass_in_training_is_the_modules_own(kind: str) -> None:
    module, shape = random_module(kind, 4)
    twin = copy.deepcopy(module)
    graph = trace(module, shape)
    module.train()
    twin.train()
    x = uniform(generator(4), 6, *shape)
    logits, network = graph.clean(x)
    same(logits, twin(x))
    for own, other in zip(module.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(own, other)
    same(network(x), logits)  # the bounds' network is that of this batch
    assert not torch.allclose(graph.instance()(x), logits)
    logits.square().sum().backward()
    twin(x).square().sum().backward()
    for own, other in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-7, atol=1e-7)


def test_bounds_pass_their_gradient_through_the_statistics() -> None:
    module, shape = random_module("norm", 5)
    module.train()
    first = next(module.parameters())
    x, other = uniform(generator(5), 6, *shape), uniform(generator(6), 6, *shape)
    _, network = trace(module, shape).clean(x)
    network(other).sum().backward()
    through = first.grad
    assert through is not None
    assert float(through.abs().amax()) > 0
    module.eval()  # with running statistics the same weight has another gradient
    first.grad = None
    trace(module, shape).instance()(other).sum().backward()
    assert first.grad is not None
    assert not torch.allclose(through, first.grad)


def test_tracing_and_bounding_leave_the_module_alone() -> None:
    module, shape = random_module("norm", 6)
    module.train()
    before = copy.deepcopy(module.state_dict())
    trace(module, shape).instance()
    assert module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_dropout_drops_in_the_clean_pass_only() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)).double()
    graph = trace(module, (6,))
    x = uniform(generator(7), 5, 6)
    torch.manual_seed(1)
    logits, network = graph.clean(x)
    torch.manual_seed(1)
    same(logits, module(x))
    same(network(x), graph.instance()(x))
    same(graph.instance()(x), module.eval()(x))
    same(graph.clean(x)[0], module(x))


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, 1)  # the line the error names


def test_an_unsupported_operator_is_named_with_its_line_and_the_list() -> None:
    with pytest.raises(UnsupportedOperator) as caught:
        trace(nn.Sequential(nn.Linear(3, 3), Softmax()), (3,))
    text = str(caught.value)
    assert "softmax" in text
    assert "the line the error names" in text
    assert "supported:" in text
    assert "nn.Conv2d" in text
    assert "\n" not in text


def test_an_unsupported_module_is_named() -> None:
    with pytest.raises(UnsupportedOperator, match=r"nn\.LayerNorm at node '1'"):
        trace(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2)), (3,))


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Mixes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1)


class Quotient(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.0 / x


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        h = x * 2.0
        return h.relu_() + h  # h is no longer what it was


@pytest.mark.parametrize(
    ("module", "error", "words"),
    [
        (Branch(), ModelError, "cannot be traced"),
        (Mixes(), UnsupportedOperator, "batch"),
        (Quotient(), UnsupportedOperator, "depends on the input"),
        (InPlace(), UnsupportedOperator, "in place"),
        (nn.Linear(7, 3), ModelError, "does not accept images of shape"),
        (nn.Identity(), None, ""),
    ],
    ids=["branch", "batch axis", "quotient", "in place", "shape", "fine"],
)
def test_what_cannot_be_bounded_is_refused(
    module: nn.Module, error: type[Exception] | None, words: str
) -> None:
    if error is None:
        assert trace(module, (4,)).classes == 4
        return
    with pytest.raises(error, match=words):
        trace(module, (4,))


def test_images_as_output_are_refused() -> None:
    with pytest.raises(ModelError, match="one vector of logits"):
        trace(nn.Conv2d(1, 2, 3), (1, 5, 5))


def test_an_in_place_relu_on_a_fresh_tensor_is_fine() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)).double()
    x = uniform(generator(8), 3, 4)
    same(trace(module, (4,)).instance()(x), module(x))


def test_threads_that_trace_and_call_at_the_same_time_do_not_meet() -> None:
    """Drawing replaces ``nn.Module.__call__`` for the whole process."""
    before = nn.Module.__call__, nn.Module.__getattr__
    modules = [random_module(KINDS[seed % len(KINDS)], seed) for seed in range(12)]
    images = [uniform(generator(seed), 3, *modules[seed][1]) for seed in range(12)]
    expected = [module(x) for (module, _), x in zip(modules, images, strict=True)]
    plain, shape = random_module("conv", 99)
    x = uniform(generator(99), 2, *shape)
    wanted = plain(x)
    begun = threading.Barrier(5)

    def draw(seed: int) -> Tensor:
        if seed < 4:
            begun.wait(60)
        module, size = modules[seed]
        return trace(module, size).instance()(images[seed])

    def call() -> list[Tensor]:
        begun.wait(60)
        return [plain(x) for _ in range(300)]

    with ThreadPoolExecutor(5) as pool:
        calls = pool.submit(call)
        drawn = list(pool.map(draw, range(12)))
        for found in calls.result():
            assert torch.equal(found, wanted)
    for found, value in zip(drawn, expected, strict=True):
        same(found, value)
    assert before == (nn.Module.__call__, nn.Module.__getattr__)
