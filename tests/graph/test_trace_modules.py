"""Wrappers, hooks, parametrizations, default arguments and writes in place."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graph_forms import EITHER_WAY, Asks
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from taut.errors import ModelError, UnsupportedOperator
from taut.graph import trace
from tests.soundness.harness import generator, uniform


def small() -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    return layers.double().eval()


def same(module: nn.Module, like: nn.Module | None = None, *shape: int) -> None:
    shape = shape or (4,)
    x = 2 * uniform(generator(2), 3, *shape) - 1
    expected = (like or module)(x)
    torch.testing.assert_close(trace(module, shape).instance()(x), expected)


class Calls(nn.Module):
    """Calls a function of the image, in the middle of a module."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


WRAPPERS = {
    "data parallel": nn.DataParallel,
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled data parallel": lambda m: compiled(nn.DataParallel(m)),
    "inside": lambda m: nn.Sequential(nn.DataParallel(m), nn.Identity()),
    "compiled inside": lambda m: nn.Sequential(nn.Identity(), compiled(m)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_traced_through(name: str) -> None:
    plain = small()
    same(WRAPPERS[name](copy.deepcopy(plain)), plain)


@pytest.mark.parametrize("place", ["", "0", "1", "3"])
def test_hooks_that_change_what_is_computed_are_traced(place: str) -> None:
    module = small()
    module.get_submodule(place).register_forward_hook(lambda _m, _x, out: out * 2)
    module.get_submodule(place).register_forward_pre_hook(lambda _m, x: (x[0] - 0.5,))
    assert not torch.allclose(module(torch.ones(2, 4).double()), small()(torch.ones(2, 4).double()))
    same(module)


@pytest.mark.parametrize(
    "norm",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
)
@EITHER_WAY
def test_parametrized_weights_stay_live(
    norm: Callable[..., nn.Module], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    def call(x: Tensor, conv: nn.Module, lin: nn.Module) -> Tensor:
        return lin(conv(x).flatten(1))

    torch.manual_seed(2)
    module = wrap(Calls(call, norm(nn.Conv2d(2, 3, 2)), norm(nn.Linear(12, 4)))).double().eval()
    graph = trace(module, (2, 3, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    x = uniform(generator(3), 3, 2, 3, 3)
    torch.testing.assert_close(graph.instance()(x), module(x))
    graph.instance()(x).square().sum().backward()
    found = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    module(x).square().sum().backward()
    torch.testing.assert_close(found, [p.grad for p in module.parameters()])


def test_the_clean_pass_iterates_a_spectral_norm_once() -> None:
    torch.manual_seed(2)
    module = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 3))
    module = module.double().eval()
    before = copy.deepcopy(module.state_dict())
    graph = trace(module, (4,))
    torch.testing.assert_close(dict(module.state_dict()), dict(before))
    module.train()
    twin = copy.deepcopy(module)
    x = uniform(generator(3), 3, 4)
    torch.testing.assert_close(graph.clean(x)[0], twin(x))
    torch.testing.assert_close(dict(module.state_dict()), dict(twin.state_dict()))


class Defaults(nn.Module):
    """Arguments with defaults, of which one is a branch; layers called more than once."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(4, 4)
        self.layers = nn.ModuleList([shared, nn.Linear(4, 4), shared])
        self.acts = nn.ModuleDict({"relu": nn.ReLU()})

    def forward(
        self, x: Tensor, features: bool = False, scale: float = 2.0, *args: int, **kwargs: int
    ) -> Tensor:
        for layer in self.layers:
            x = self.acts["relu"](layer(x))
        return x if features else x * scale


class Variadic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 2)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.lin(args[0])


@pytest.mark.parametrize("module", [Defaults(), Variadic()], ids=["defaults", "variadic"])
def test_every_signature_with_one_image_is_traced(module: nn.Module) -> None:
    same(module.double().eval())


def test_constants_made_in_forward_are_no_attributes_of_the_module() -> None:
    module = Calls(lambda x: x - torch.tensor([1.0, 2.0, 3.0, 4.0]))
    before = dir(module)
    same(module)
    assert dir(module) == before


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(4, 3)]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden[0](x)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.jit.script(nn.Linear(4, 3)))


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "two inputs": (Two, "one image tensor alone"),
    "tuple": (lambda: Calls(lambda x: (x, x * 2)), "returns a tuple"),
    "list": (lambda: Calls(lambda x: [x, x] if x.shape[1] == 4 else x), "returns a list"),
    "dict": (lambda: Calls(lambda x: {"logits": x}), "returns a dict"),
    "nothing": (lambda: Calls(lambda x: None), "returns a NoneType"),
    "scripted": (scripted, r"'0' \(RecursiveScriptModule\).*torch\.jit"),
    "old weight norm": (old_weight_norm, r"'0' \(Linear\).*parametrizations"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "'0'.*no weights yet"),
    "hidden": (Hidden, r"'hidden'.*nn\.ParameterList"),
    "constant": (lambda: Calls(lambda x: torch.ones(3, 4)), "uses the input"),
    "no forward": (nn.Module, "forward"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_seen_through_is_refused(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(ModelError, match=words) as caught:
        trace(make(), (4,))
    assert "\n" not in str(caught.value)


def overwrites_a_view(x: Tensor) -> Tensor:
    h = x - 0.5
    view = h.view(-1, 2, 2)
    h.relu_()
    return view.flatten(1)


def overwrites_a_part(x: Tensor) -> Tensor:
    h = x - 0.5
    h[:, :2].relu_()
    return h


def overwrites_by_argument(x: Tensor) -> Tensor:
    h = x - 0.5
    return F.relu(h, True) + h


def assigns(x: Tensor) -> Tensor:
    h = x - 0.5
    h[:, 0] = 0.0
    return h


@pytest.mark.parametrize(
    "function", [overwrites_a_view, overwrites_a_part, overwrites_by_argument, assigns]
)
@EITHER_WAY
def test_memory_read_after_it_was_overwritten_is_refused(
    function: Callable[[Tensor], Tensor], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    module = wrap(Calls(function))
    if wrap is Asks and function is overwrites_by_argument:  # export reads the new value
        same(module)
        return
    with pytest.raises(UnsupportedOperator, match="in place on a tensor that is used again later"):
        trace(module, (4,))


def test_writes_in_place_that_nobody_else_sees_are_fine() -> None:
    """Residual blocks with ReLUs in place, as they are usually written."""
    torch.manual_seed(4)
    conv, norm = nn.Conv2d(2, 2, 3, 1, 1), nn.BatchNorm2d(2)

    def block(x: Tensor, conv: nn.Module, norm: nn.Module, relu: nn.Module) -> Tensor:
        out = relu(norm(conv(x)))
        out = norm(conv(out))
        out += x
        return relu(out)

    same(nn.Sequential(Calls(block, conv, norm, nn.ReLU(True)), nn.Flatten()).double().eval(),
         None, 2, 4, 4)  # fmt: skip


def test_a_buffer_written_before_it_is_read_is_refused() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1.0)
            return x * self.calls

    with pytest.raises(UnsupportedOperator, match="in place"):
        trace(Counts(), (4,))
