"""Verdicts: what is proved, what is broken, what stays open, and why.

>>> import torch, taut.models
>>> from taut.verify import certify
>>> net = taut.models.build("dm-small-p1", (1, 12, 12), 3)
>>> x = torch.rand(4, 1, 12, 12)
>>> result = certify(net, x, net(x).argmax(1), eps=0.0001)
>>> result.images, result.natural_accuracy, result.certified_accuracy
(4, 1.0, 1.0)
"""

from taut.verify.cascade import Cascade, certify
from taut.verify.certification import Certification, wilson_interval
from taut.verify.replay import Replay, replay
from taut.verify.verdict import Evidence, Status, Verdict, conclude

__all__ = [
    "Cascade",
    "Certification",
    "Evidence",
    "Replay",
    "Status",
    "Verdict",
    "certify",
    "conclude",
    "replay",
    "wilson_interval",
]
