"""Numbers as a reader expects them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from taut.report.counts import Share

ELL = "\N{SCRIPT SMALL L}"
THIN = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def percent(value: float, total: int | None = None) -> str:
    """A fraction as percent; two decimals where there are more than 1,000 images."""
    decimals = 2 if total is not None and total > 1000 else 1
    return f"{100 * value:.{decimals}f}{THIN}%"


def interval(share: Share) -> str:
    """The 95 % interval of a share, e.g. "81.4 to 87.7 %"."""
    lower, upper = share.interval
    decimals = 2 if share.total > 1000 else 1
    return f"{100 * lower:.{decimals}f} to {100 * upper:.{decimals}f}{THIN}%"


def integer(value: int) -> str:
    """An integer with thousands separated by thin spaces."""
    return f"{value:,}".replace(",", THIN)


def number(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` significant digits and a true minus sign."""
    if value is None or math.isnan(value):
        return "not a number" if value is not None else "-"
    if math.isinf(value):
        return ("" if value > 0 else _MINUS) + "infinity"
    if 1000 <= abs(value) < 1e7:
        return integer(round(value)).replace("-", _MINUS)
    shown = f"{value:.{digits}g}"
    if "e" in shown:
        mantissa, exponent = shown.split("e")
        shown = f"{mantissa}e{int(exponent)}"
    return shown.replace("-", _MINUS)


def radius(eps: float) -> str:
    """eps in pixel units of [0, 1] and as a multiple of 1/255, e.g. "0.1 (25.5/255)"."""
    steps = eps * 255
    near = round(steps, 2)
    shown = f"{near:g}/255" if abs(steps - near) < 1e-6 else f"about {near:g}/255"
    return f"{eps:.4g} ({shown})"


def duration(seconds: float | None) -> str:
    """Wall time in the unit a person would use."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.3g}{THIN}ms"
    if seconds < 120:
        return f"{seconds:.3g}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}{THIN}min {rest}{THIN}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{THIN}h {minutes}{THIN}min"


def moment(stamp: Any) -> str | None:
    """An ISO 8601 time to the minute, in UTC where it names its offset; other text as it is."""
    if not isinstance(stamp, str) or not stamp:
        return None
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    if time.tzinfo is None:
        return f"{time:%Y-%m-%d %H:%M}"
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def setting(value: Any) -> str:
    """A configuration value: text as it stands, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


Table = tuple[str, list[tuple[str, str]]]


def tables(mapping: Mapping[str, Any], name: str) -> list[Table]:
    """Nested settings as tables ``(dotted name, rows of key and text)``, as TOML would have them.

    A table's own values come before its subtables; a mapping without values of its own gives
    no table of its own name.
    """
    own = [(key, setting(v)) for key, v in mapping.items() if not isinstance(v, Mapping) or not v]
    found: list[Table] = [(name, own)] if own else []
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            found += tables(value, f"{name}.{key}")
    return found
