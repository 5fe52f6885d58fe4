"""What the rows of results/mnist-dm-small.md and results/abscert.md say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mnist_rows import ROWS

Row = Mapping[str, Any]

TITLE = "## What the figures say\n\n"
_GM, _BASE = "GM-CROWN-IBP, N = 5, beta 1", "CROWN-IBP, beta 1"
_ACTIVATIONS = ("IBP", "IBP, LeakyReLU", "IBP, ParamRamp")


def methods(rows: Sequence[Row]) -> str:
    """Return what is claimed of training methods, with the rows that contradict it."""
    by = {(r["table"], r["label"], r["eps"]): r for r in rows if r["seed"] == 0}
    said = [_certified(eps, by) for eps in (0.1, 0.3)] + [_global(by), _dead(by)]
    lines = [line for line in said if line]
    return TITLE + "\n".join(f"- {line}" for line in lines) + "\n" if lines else ""


def _certified(eps: float, by: Mapping[tuple[str, str, float], Row]) -> str:
    """Certified training against attacked training, by the error that IBP verifies."""
    rival = by.get(("part", "PGD", eps))
    trained = [by.get(("part", row.label, eps)) for row in ROWS if row.certified]
    ours = sorted((r for r in trained if r is not None), key=lambda r: r["ibp"])
    if rival is None or not ours:
        return ""
    below = [r for r in ours if r["ibp"] < rival["ibp"]]
    text = (
        f"eps {eps}: PGD training leaves an IBP-verified error of {rival['ibp']:.1f} %. "
        f"{len(below)} of {len(ours)} certified methods are below it"
    )
    if below:
        first, last = below[0], below[-1]
        text += (
            f", from {first['label']} ({first['ibp']:.1f} %) to {last['label']} "
            f"({last['ibp']:.1f} %)"
        )
    above = [r for r in ours if r not in below]
    if above:
        named = "; ".join(f"{r['label']} {r['first']['verified']:.1f} %" for r in above)
        pgd = rival["first"]["verified"]
        text += f". Not below, with what the cascade verifies: {named} (PGD {pgd:.1f} %)"
    best = min(ours, key=lambda r: r["first"]["verified"])
    return (
        f"{text}. The cascade's least verified error is {best['first']['verified']:.1f} %, of "
        f"{best['label']}."
    )


def _global(by: Mapping[tuple[str, str, float], Row]) -> str:
    """GM against its base, both trained at 0.5 and verified by CROWN-IBP."""
    ours, base = by.get(("grid", _GM, 0.5)), by.get(("grid", _BASE, 0.5))
    if ours is None or base is None:
        return ""
    pairs = {
        eps: (error, base["grid"]["crown-ibp"][eps])
        for eps, error in ours["grid"]["crown-ibp"].items()
    }
    at = pairs["0.3"]
    better = [eps for eps, (mine, its) in pairs.items() if mine < its]
    worse = [eps for eps, (mine, its) in pairs.items() if mine > its]
    return (
        f"Trained at eps 0.5, evaluated at 0.3 and verified by CROWN-IBP: {_GM} {at[0]:.1f} %, "
        f"{_BASE} {at[1]:.1f} %. GM has the smaller error at {', '.join(better) or 'no eps'}, the "
        f"larger one at {', '.join(worse) or 'no eps'}: its loss is a mean over smaller radii "
        f"too, which weighs the largest one less.{_by_intervals(by)}"
    )


def _by_intervals(by: Mapping[tuple[str, str, float], Row]) -> str:
    """GM on intervals at 0.3, with both ways to weigh its radii."""
    labels = ("IBP", "GM-IBP, N = 5", "GM-IBP, N = 5, literal weights")
    rows = [(label, by.get(("grid", label, 0.5))) for label in labels]
    found = [f"{label} {row['grid']['ibp']['0.3']:.1f} %" for label, row in rows if row]
    return f" Verified by IBP: {'; '.join(found)}." if len(found) > 1 else ""


def _dead(by: Mapping[tuple[str, str, float], Row]) -> str:
    """Neurons below zero on the whole ball, of three activations."""
    found = [by.get(("part", label, 0.3)) for label in _ACTIVATIONS]
    rows = [r for r in found if r is not None]
    if len(rows) < len(_ACTIVATIONS):
        return ""
    shares = {}
    for row in rows:
        told = row["dead"]
        left = zip(told["dead"], told["blocked"], strict=True)
        shares[row["label"]] = [dead - right for dead, right in left]
    plain, ramp = shares[_ACTIVATIONS[0]], shares[_ACTIVATIONS[2]]
    fewer = sum(mine < its for mine, its in zip(ramp, plain, strict=True))
    told = "; ".join(
        f"{label} {' / '.join(f'{share:.0f}' for share in layers)} %, IBP-verified error "
        f"{row['ibp']:.1f} %"
        for (label, layers), row in zip(shares.items(), rows, strict=True)
    )
    return (
        f"Neurons left of 0 on the whole ball at eps 0.3, layer by layer: {told}. ParamRamp has "
        f"fewer of them than ReLU in {fewer} of {len(plain)} layers; its neurons right of r are "
        "in the table of states."
    )


def cells(rows: Sequence[Row]) -> str:
    """Return which network has the least errors at every eps, beside the best without cells."""
    lines = []
    for eps in sorted({at for row in rows for at in row["at"]}, key=float):
        told = [(row["label"], row["at"][eps]) for row in rows if eps in row["at"]]
        plain = [entry for entry in told if entry[0].startswith("no cells")]
        if not plain or len(plain) == len(told):
            continue
        parts = []
        for name, error in (("verified", _verified), ("attacked", _attacked)):
            (best, least), (rival, most) = (min(e, key=error) for e in (told, plain))
            errors = [error((label, found)) for label, found in ((best, least), (rival, most))]
            parts.append(
                f"{name} {errors[0]:.1f} % ({best}), without cells {errors[1]:.1f} % ({rival})"
            )
        lines.append(f"- eps {eps}, least error: " + "; ".join(parts) + ".")
    return TITLE + "\n".join(lines) + "\n" if lines else ""


def _verified(entry: tuple[str, Mapping[str, Any]]) -> float:
    return float(entry[1]["first"]["verified"])


def _attacked(entry: tuple[str, Mapping[str, Any]]) -> float:
    return float(entry[1]["first"]["attacked"])
