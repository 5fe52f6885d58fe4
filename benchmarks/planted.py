"""Counterexamples trained in, which attacks miss: no verdict may call such an image safe.

python benchmarks/planted.py [--nets 3] [--seconds 30] [--kind plane|dense|conv]

A network is trained as usual, on points of a small space or on MNIST digits (TAUT_DATA). A neuron
of its last hidden layer is set to see one point p of a ball, and training goes on: p has another
label, samples of the ball and what PGD finds have the right one, until PGD finds nothing. So p is a
counterexample known from the start. A line for each network says whether PGD with 40 steps and 10
starts finds any, and what the cascade without attack decides in the time given.
The exit code is 1 if an input was called verified.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import taut
from taut.attacks import PGD
from taut.region import Box
from taut.verify import Cascade, Status

KINDS = {"plane": (0.1,), "dense": (0.02, 0.05, 0.1), "conv": (0.02, 0.05, 0.1)}
STAGES = ("clean", "ibp", "crown-ibp", "crown", "alpha-crown", "branch")
AROUND = 64  # samples of each sort in a step


@dataclass(frozen=True)
class Task:
    """What a network is trained on, and the ball in which a point is planted."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    eps: float


def plane(seed: int, eps: float) -> Task:
    """Three classes of a space of 2 to 4 dimensions, apart by smooth borders."""
    size = 2 + seed % 3
    x = torch.rand(3000, size)
    bend = x[:, 0] + 0.3 * torch.sin(4 * x[:, 1:].sum(1))
    y = (bend > 0.35).long() + (bend > 0.75).long()
    layers = nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 3)
    return Task(nn.Sequential(*layers), x, y, eps)


def digits(kind: str, eps: float) -> Task:
    train = taut.load_data("mnist", "train").first(4000)
    if kind == "dense":
        layers = (nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
                  nn.Linear(32, 10))  # fmt: skip
    else:
        layers = (nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 4, 2, 1), nn.ReLU(),
                  nn.Flatten(), nn.Linear(392, 32), nn.ReLU(), nn.Linear(32, 10))  # fmt: skip
    return Task(nn.Sequential(*layers), train.pixels(), train.labels, eps)


def fit(task: Task, epochs: int) -> None:
    """Adversarial training, so that the ball is safe but for what is planted."""
    optimiser = torch.optim.Adam(task.model.parameters(), lr=2e-3)
    attack = PGD(steps=3, stop_early=False)
    for _ in range(epochs):
        for part in torch.randperm(len(task.images)).split(100):
            x, y = task.images[part], task.labels[part]
            worst = attack(task.model, x, y, Box.around(x, task.eps)).point
            step(task.model, optimiser, torch.cat([x, worst]), torch.cat([y, y]))


def step(
    model: nn.Module, by: torch.optim.Optimizer, x: Tensor, y: Tensor, more: Tensor | None = None
) -> None:
    loss = nn.functional.cross_entropy(model(x), y, reduction="none")
    by.zero_grad()
    (loss.mean() if more is None else (loss * more).sum()).backward()
    by.step()


def plant(task: Task, x: Tensor, y: int, point: Tensor, target: int, steps: int) -> bool:
    """Give one point of a ball another label; tell whether it has it and attacks miss it."""
    model, box, shape = task.model, Box.around(x, task.eps), (AROUND, *x.shape[1:])
    many = box.each(lambda end: end.expand(shape).contiguous())
    optimiser, attack = (
        torch.optim.Adam(model.parameters(), lr=1e-3),
        PGD(steps=10, stop_early=False),
    )
    right = torch.full((AROUND,), y)
    for number in range(steps):
        hole = max(0.5 * (1 - 1.5 * number / steps), 0.1) * task.eps  # it closes in on the point
        if number % 50 == 0 and is_hidden(task, x, y, point, target):
            return True
        inside = box.lower + torch.rand(shape) * (box.upper - box.lower)
        way = 2 * torch.rand(shape) - 1
        way /= way.flatten(1).abs().amax(1).view(-1, *[1] * (x.dim() - 1))
        close = many.project(
            point + hole * (1 + 2 * torch.rand(AROUND, *[1] * (x.dim() - 1))) * way
        )
        found = attack(model, inside, right, many).point
        away = ((found - point).abs().flatten(1).amax(1) > hole).float()
        rows = torch.randint(len(task.images), (AROUND,))
        batch = torch.cat([point, inside, close, found, task.images[rows]])
        labels = torch.cat([torch.tensor([target]), right, right, right, task.labels[rows]])
        weights = torch.cat([torch.full((1,), 3.0), torch.ones(2 * AROUND) / AROUND, away / AROUND,
                             torch.ones(AROUND) / AROUND])  # fmt: skip
        step(model, optimiser, batch, labels, weights)
    return is_hidden(task, x, y, point, target)


def begin(task: Task, x: Tensor, box: Box) -> tuple[Tensor, int]:
    """Let a neuron see only where features are farthest in a direction, 0 a fifth before.

    Its gradient vanishes nearly everywhere. Return that point and the class it is to have.
    """
    *before, hidden, _, last = task.model
    features, point = nn.Sequential(*before), box.center.clone()
    way = torch.randn(hidden.in_features)
    for _ in range(60):
        point.requires_grad_(True)
        (slope,) = torch.autograd.grad((features(point) @ way).sum(), point)
        point = box.project(point.detach() + 0.05 * task.eps * slope.sign())
    with torch.no_grad():
        target = int(task.model(x)[0].argsort(descending=True)[1])
        size = nn.Sequential(*before, hidden, nn.ReLU())(task.images).mean(0)
        least = int((size * last.weight.abs().amax(0)).argmin())  # the neuron that is missed least
        last.weight[:, least] = 0.0
        logits = task.model(point)[0]
        first, there = features(torch.cat([x, point])) @ way
        hidden.weight[least] = 5 * way / (there - first)
        hidden.bias[least] = 1 - 5 * there / (there - first)
        last.weight[target, least] = 4 + logits.amax() - logits[target]
    return point, target


def is_hidden(task: Task, x: Tensor, y: int, point: Tensor, target: int) -> bool:
    """Whether the point has its label, the input its own, and PGD finds nothing."""
    with torch.no_grad():
        both = task.model(torch.cat([x, point])).argmax(1).tolist()
    return both == [y, target] and missed(task, x, y)


def missed(task: Task, x: Tensor, y: int) -> bool:
    attack = PGD(steps=40, restarts=10, loss="margin", targets=3)
    return not bool(attack(task.model, x, torch.tensor([y]), Box.around(x, task.eps)).success)


def networks(kind: str, count: int) -> Iterator[tuple[str, Task, Tensor, int, Tensor]]:
    """Yield networks with one planted point each, hidden or not."""
    for seed in range(count):
        torch.manual_seed(seed)
        eps = KINDS[kind][seed % len(KINDS[kind])]
        task = plane(seed, eps) if kind == "plane" else digits(kind, eps)
        fit(task, 20 if kind == "plane" else 3)
        with torch.no_grad():
            logits = task.model(task.images)
        margin = taut.attacks.margin(logits, task.labels)
        place = int(margin.argsort(descending=True)[len(margin) // 4 + seed])
        x, y = task.images[place : place + 1], int(task.labels[place])
        point, target = begin(task, x, Box.around(x, 0.98 * eps))
        plant(task, x, y, point, target, 1000 if kind == "plane" else 300)
        yield f"{kind} {seed}", task, x, y, point


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", type=int, default=3, help="of each kind (default 3)")
    parser.add_argument("--seconds", type=float, default=30.0, help="an input (default 30)")
    parser.add_argument("--kind", choices=KINDS, help="this kind only")
    chosen, wrong = parser.parse_args(), 0
    torch.set_num_threads(1)
    for kind in [chosen.kind] if chosen.kind else KINDS:
        for name, task, x, y, point in networks(kind, chosen.nets):
            model, label = task.model.eval(), torch.tensor([y])
            hidden = missed(task, x, y)
            if not taut.verify.replay(model, x[0], y, task.eps, point[0]).reproduced:
                print(f"{name}: what was planted is no counterexample")
                continue
            began, cascade = time.process_time(), Cascade(STAGES, timeout=chosen.seconds)
            (found,) = taut.certify(model, x, label, task.eps, cascade=cascade).verdicts
            wrong += found.status is Status.VERIFIED
            print(
                f"{name}, eps {task.eps:g}: attack {'missed' if hidden else 'found'}; "
                f"{found.status} by {found.stage}{', ' if found.reason else ''}{found.reason}, "
                f"{time.process_time() - began:.1f} s of CPU time",
                flush=True,
            )
    print(f"{wrong} called safe that are not")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
