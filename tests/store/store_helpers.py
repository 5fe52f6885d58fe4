"""What several tests of the run folder share."""

import math
import struct

from hypothesis import settings
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog

# No deadline: how long a disk takes is no property of the code.
IN_MEMORY = settings(deadline=None, max_examples=100)
ON_DISK = settings(deadline=None, max_examples=25)
RESERVED = {"NaN", "Infinity", "-Infinity"}
TEXT = st.text(max_size=8).filter(lambda text: text not in RESERVED)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
PLAIN = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def same(a, b):
    """Equal in type, value and sign of zero, with NaN equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


def shown(folder):
    """Return the points TensorBoard shows: ``{tag: {step: value}}``, each step once.

    Files in the order of their names; a session start withdraws the points from
    its step on; a torn record ends its file.
    """
    points = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            if at + 16 + length > len(data):
                break
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                for steps in points.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                steps = points.setdefault(value.tag, {})
                assert event.step not in steps, "a point shows twice"
                steps[event.step] = value.simple_value
    return points
