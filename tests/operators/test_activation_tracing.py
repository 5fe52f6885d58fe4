"""Traced activations: modules, functions and methods compute what the model computes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.bounds import METHODS
from taut.errors import ConfigError, ModelError, UnsupportedOperator
from taut.graph import trace
from taut.models.activations import ACTIVATIONS
from taut.operators.clip import Clip
from taut.operators.leaky import LeakyReLU
from taut.operators.ramp import ParamRamp, Ramp, ramp
from taut.region import Box


class Calls(nn.Module):
    """A function of a tensor between two linear layers; with constants of its own."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.slopes = nn.Parameter(torch.linspace(-0.5, 1.5, 6))
        self.register_buffer("low", torch.linspace(-1, 0, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), self))


def positive(z: Tensor) -> Tensor:
    return torch.relu(z) + 0.5


FUNCTIONS: dict[str, Callable[[Tensor, Calls], Tensor]] = {
    "leaky": lambda z, m: F.leaky_relu(z, 0.2),
    "leaky default": lambda z, m: F.leaky_relu(z),
    "leaky in place": lambda z, m: F.leaky_relu(z, negative_slope=0.3, inplace=True),
    "leaky_": lambda z, m: F.leaky_relu_(z, 0.3),
    "prelu": lambda z, m: F.prelu(z, m.slopes),
    "prelu one": lambda z, m: torch.prelu(z, m.slopes[:1]),
    "abs": lambda z, m: torch.abs(z),
    "abs method": lambda z, m: z.abs(),
    "abs operator": lambda z, m: abs(z),
    "hardtanh": lambda z, m: F.hardtanh(z),
    "hardtanh ends": lambda z, m: F.hardtanh(z, -0.2, max_val=0.7),
    "relu6": lambda z, m: F.relu6(6 * z),
    "clamp": lambda z, m: torch.clamp(z, -0.3, 0.4),
    "clamp below": lambda z, m: z.clamp(min=0.1),
    "clamp above": lambda z, m: torch.clip(z, max=0.1),
    "clamp infinite": lambda z, m: z.clip(-math.inf, 0.2),
    "clamp tensor": lambda z, m: torch.clamp(z, m.low, m.low + m.slopes.abs()),
    "clamp_min": lambda z, m: z.clamp_min(0.2),
    "clamp_max": lambda z, m: torch.clamp_max(z, 0.2),
    "clamp_": lambda z, m: z.clamp_(-0.1, 0.1),
    "hardsigmoid": lambda z, m: F.hardsigmoid(5 * z),
    "hardswish": lambda z, m: F.hardswish(5 * z),
    "ramp": lambda z, m: ramp(z, m.slopes.abs() + 0.1, m.low.abs()),
    "sigmoid": lambda z, m: torch.sigmoid(z),
    "sigmoid method": lambda z, m: z.sigmoid(),
    "sigmoid functional": lambda z, m: F.sigmoid(z),
    "tanh": lambda z, m: torch.tanh(z),
    "tanh_": lambda z, m: z.tanh_(),
    "softplus": lambda z, m: F.softplus(z),
    "softplus beta": lambda z, m: F.softplus(z, beta=2.0, threshold=1.0),
    "gelu": lambda z, m: F.gelu(z),
    "gelu tanh": lambda z, m: F.gelu(z, approximate="tanh"),
    "silu": lambda z, m: F.silu(z),
    "exp": lambda z, m: z.exp(),
    "log": lambda z, m: positive(z).log(),
    "sqrt": lambda z, m: torch.sqrt(positive(z)),
    "reciprocal": lambda z, m: positive(z).reciprocal(),
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(0.2),
    "leaky in place": lambda: nn.LeakyReLU(0.2, inplace=True),
    "prelu": nn.PReLU,
    "prelu channels": lambda: nn.PReLU(3, 0.7),
    "hardtanh": nn.Hardtanh,
    "hardtanh ends": lambda: nn.Hardtanh(-0.2, 0.1),
    "relu6": nn.ReLU6,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "ramp": lambda: ParamRamp((3, 4, 4), eta=0.2, r=0.3),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": lambda: nn.Softplus(2.0, 5.0),
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
}


def bounded(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Compare a traced model with itself, and its bounds by every method with its values."""
    x = torch.rand(5, *shape, dtype=torch.float64)
    net = trace(module, shape).instance()
    torch.testing.assert_close(net(x), module(x.clone()), rtol=1e-12, atol=1e-12)
    box = Box(x - 0.1, x + 0.1)
    t = 2 * torch.rand(100, *x.shape, dtype=torch.float64) - 1
    logits = module((x + 0.1 * t).flatten(0, 1)).unflatten(0, (100, 5))
    for name in ("ibp", "crown-ibp", "crown"):
        found = METHODS[name].outputs(net, box)
        assert bool((found.lower <= logits.amin(0) + 1e-9).all())
        assert bool((found.upper >= logits.amax(0) - 1e-9).all())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_methods(name: str) -> None:
    torch.manual_seed(1)
    bounded(Calls(FUNCTIONS[name]).double(), (4,))


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), MODULES[name](), nn.Flatten(), nn.Linear(48, 3))
    bounded(net.double(), (1, 6, 6))


def test_a_ramp_is_one_step_with_the_lines_of_a_ramp() -> None:
    """However it is called: as a module, or as a function."""
    module = nn.Sequential(nn.Linear(4, 6), ParamRamp((6,), 0.1), nn.Linear(6, 3))
    for net in (module, Calls(lambda z, m: ramp(z, m.slopes.abs() + 0.1, m.low.abs()))):
        operators = [node.operator for node in trace(net, (4,)).instance().nodes]
        assert sum(isinstance(operator, Ramp) for operator in operators) == 1
        assert len(operators) == 4


def test_slopes_and_ranges_are_read_when_bounds_are_made() -> None:
    torch.manual_seed(3)
    leaky, prelu, own = nn.LeakyReLU(0.5), nn.PReLU(6), ParamRamp((6,), 0.3)
    layers = [nn.Linear(6, 6) for _ in range(3)]
    net = nn.Sequential(layers[0], leaky, layers[1], prelu, layers[2], own).double()
    graph = trace(net, (6,))
    x = torch.randn(40, 6, dtype=torch.float64)
    before = net(x)
    leaky.negative_slope = 0.0
    own.set_eta(0.05)
    with torch.no_grad():
        own.r.mul_(0.01)
        prelu.weight.sub_(0.5)
    assert not torch.allclose(before, net(x))
    torch.testing.assert_close(graph.instance()(x), net(x))
    graph.instance()(x).sum().backward()
    for parameter in (own.r, prelu.weight):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().amax()) > 0


def test_a_ramp_keeps_its_range() -> None:
    module = ParamRamp((2, 3), eta=0.5, r=0.4)
    assert tuple(module.r.shape) == (2, 3)
    assert set(module.state_dict()) == {"r", "eta"}
    assert repr(module) == "ParamRamp((2, 3), eta=0.5)"
    z = torch.randn(50, 2, 3)
    torch.testing.assert_close(module(z), 0.5 * z + 0.5 * z.clamp(0, 0.4))
    with torch.no_grad():
        module.r.fill_(-1.0)
    torch.testing.assert_close(module(z), 0.5 * z + 0.5 * z.clamp(0, 1e-4))
    module.project()
    assert torch.equal(module.r.detach(), torch.full((2, 3), 1e-4))
    module.r.data.fill_(math.inf)
    torch.testing.assert_close(module(z), F.leaky_relu(z, 0.5))


def test_a_ramp_refuses_what_it_cannot_be() -> None:
    for eta in (-0.1, 1.5, math.nan):
        with pytest.raises(ConfigError, match=r"eta .* \[0, 1\]"):
            ParamRamp((3,), eta)
        with pytest.raises(ConfigError, match="eta"):
            ParamRamp((3,)).set_eta(eta)
    with pytest.raises(ConfigError, match=r"at least 0\.0001"):
        ParamRamp((3,), r=0.0)
    net = Calls(lambda z, m: ramp(z, m.slopes, m.low.abs()))  # some slopes are negative
    with pytest.raises(ModelError, match="not positive"):
        trace(net, (4,)).instance()
    net = Calls(lambda z, m: ramp(z, m.slopes.abs() + 1, m.slopes))
    with pytest.raises(ModelError, match=r"outside \[0, 1\]"):
        trace(net, (4,)).instance()


def test_the_zoo_knows_the_ramp() -> None:
    module = ACTIVATIONS["param-ramp"]((4, 5))
    assert isinstance(module, ParamRamp)
    assert tuple(module.r.shape) == (4, 5)
    assert float(module.eta) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda z, m: torch.sign(z), "no rule for sign"),
        (lambda z, m: torch.heaviside(z, m.low), "heaviside"),
        (lambda z, m: torch.clamp(z, max=z.relu()), "limit that depends on the input"),
        (lambda z, m: torch.clamp(z[:, :1], m.low), "broadcast"),
        (lambda z, m: F.softplus(z, -1.0), "beta=-1"),
    ],
)
def test_what_has_no_rule_is_refused(function: Callable[..., Tensor], words: str) -> None:
    with pytest.raises(UnsupportedOperator, match=words):
        trace(Calls(function), (4,))


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ModelError, match="lower limit above"):
        trace(Calls(lambda z, m: torch.clamp(z, m.low + 1, m.low)), (4,)).instance()


def test_a_log_that_may_leave_its_domain_is_an_error_of_the_bounds() -> None:
    net = Calls(lambda z, m: torch.log(z.abs() - 0.5)).double()
    graph = trace(net, (4,))
    x = torch.rand(2, 4, dtype=torch.float64)
    with pytest.raises(ModelError, match="input of log can reach"):
        METHODS["ibp"].outputs(graph.instance(), Box(x - 1, x + 1))


def test_prelu_has_one_slope_for_each_channel() -> None:
    prelu = nn.PReLU(3)
    prelu.weight.data = torch.tensor([0.1, -0.4, 2.0])
    net = nn.Sequential(nn.Conv2d(1, 3, 1), prelu, nn.Flatten(), nn.Linear(12, 2))
    (found,) = [
        node.operator
        for node in trace(net, (1, 2, 2)).instance().nodes
        if isinstance(node.operator, LeakyReLU)
    ]
    z = torch.randn(7, 3, 2, 2)
    torch.testing.assert_close(found.forward(z), prelu(z))
    assert not isinstance(found, Clip)
