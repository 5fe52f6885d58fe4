"""The table of named networks with branches, and of those for large photographs."""

from __future__ import annotations

from taut.models.dense import densenet
from taut.models.description import Description, Family
from taut.models.large import Inception, alexnet, inception_v1, vgg11
from taut.models.residual import basic_resnet, resnet18, resnext, wide_resnet
from taut.models.stacks import PHOTOS, TINY

_XU = "Xu et al. 2020 (auto_LiRPA)"
_LBP = "Lyu et al. 2021 (LBP, ParamRamp)"
_SHI = "Shi et al. 2021 (fast certified training)"
_LARGE = (3, 224, 224)

_POOLED = Family(wide_resnet, {"stem": 3, "filters": (2, 3, 4), "pool": 2}, (3, 8, 8))
_WIDE = Family(wide_resnet, {"stem": 3, "filters": (2, 3, 4), "fc": 5}, (3, 8, 8))
_RESNEXT = Family(resnext, {"stem": 3, "filters": (2, 4, 4), "fc": 5}, (3, 8, 8))
_BASIC = Family(basic_resnet, {"stem": 3, "filters": (2, 3, 4), "fc": 5}, (3, 8, 8))
_DENSE = Family(densenet, {"blocks": (1, 2, 1), "growth": 2, "fc": 5}, (3, 8, 8))
_RESNET18 = Family(resnet18, {"filters": (2, 3)}, (3, 16, 16))
_ALEXNET = Family(
    alexnet, {"filters": (2, 3, 3, 3, 2), "pooled": 1, "fc": 5}, (1, 63, 63)
)  # fmt: skip
_VGG = Family(vgg11, {"filters": ((2,), (3,), (3, 3)), "fc": 5}, (3, 8, 8))
_INCEPTION = Family(
    inception_v1,
    {
        "stem": (2, 2, 3),
        "modules": ((Inception(2, (2, 3), (1, 2), 2),), (Inception(1, (2, 2), (2, 1), 1),)),
    },
    (3, 16, 16),
)

BRANCHING: tuple[Description, ...] = (
    _POOLED.member(
        "wide-resnet-tiny", TINY, 200,
        "16@3/1/1; blocks BN, ReLU, c@3/1/1, BN, ReLU, c@3/s/1 with c/s 160/1, 320/2, 640/2; "
        "BN, ReLU, average 7/7/0",
        f"{_XU}, {_LBP}, Tiny ImageNet, depth 10, widening 10",
    ),
    _WIDE.member(
        "wide-resnet-cifar", PHOTOS, 10,
        "16@3/1/1; blocks BN, ReLU, c@3/1/1, ReLU, c@3/s/1 with c/s 128/1, 256/2, 512/2; "
        "ReLU, FC512",
        f"{_XU}, depth 10, widening 4, without pooling",
        filters=(128, 256, 512), norms="first", pool=None, fc=512,
    ),
    _BASIC.member(
        "wide-resnet-shi", PHOTOS, 10,
        "16@3/1/1, BN, ReLU; blocks c@3/s/1, BN, ReLU, c@3/1/1, BN with c/s 128/1, 256/2, 512/2, "
        "BN on shortcuts, ReLU after each; FC512, BN, ReLU",
        f"{_SHI}, widening 8",
    ),
    _RESNEXT.member(
        "resnext-tiny", TINY, 200,
        "16@3/1/1, ReLU; 2 blocks g@1/1/0, BN, ReLU, g@3/s/1 in 2 groups, ReLU, 2g@1/1/0 for each "
        "g/s of 16/1, 32/2, 64/2, ReLU after each; FC512",
        f"{_XU}, Tiny ImageNet, cardinality 2, width 8",
    ),
    _RESNEXT.member(
        "resnext-cifar", PHOTOS, 10,
        "16@3/1/1, ReLU; blocks g@1/1/0, BN, ReLU, g@3/s/1 in 2 groups, ReLU, 2g@1/1/0 with "
        "g/s 64/1, 128/2, 256/2, ReLU after each; FC512",
        f"{_XU}, cardinality 2, width 32", blocks=(1, 1, 1), filters=(64, 128, 256),
    ),
    _RESNEXT.member(
        "resnext-shi", PHOTOS, 10,
        "64@3/1/1, BN, ReLU; blocks g@1/1/0, BN, ReLU, g@3/s/1 in 2 groups, BN, ReLU, 2g@1/1/0, "
        "BN with g/s 64/1, 128/2, 256/2, BN on shortcuts, ReLU after each; FC512, BN, ReLU",
        f"{_SHI}, cardinality 2, width 32",
        stem=64, blocks=(1, 1, 1), filters=(64, 128, 256), norms="all",
    ),
    _DENSE.member(
        "densenet-tiny", TINY, 200,
        "64@3/1/1; 2, 4 and 4 layers BN, ReLU, 128@1/1/0, BN, ReLU, 32@3/1/1, joined to their "
        "inputs; between blocks BN, ReLU, half@1/1/0, average 2/2/0; BN, ReLU, FC512",
        f"{_XU}, Tiny ImageNet",
    ),
    _DENSE.member(
        "densenet-cifar", PHOTOS, 10,
        "64@3/1/1; 2, 4 and 4 layers BN, ReLU, 128@1/1/0, BN, ReLU, 32@3/1/1, joined to their "
        "inputs; between blocks BN, ReLU, half@1/1/0, average 2/2/0; BN, ReLU, FC512",
        f"{_XU}; the layers of densenet-tiny",
    ),
    _RESNET18.member(
        "resnet18", _LARGE, 1000,
        "64@7/2/3, BN, ReLU, maximum 3/2/1; 2 blocks c@3/s/1, BN, ReLU, c@3/1/1, BN for each "
        "c/s of 64/1, 128/2, 256/2, 512/2, BN on shortcuts, ReLU after each; average",
        "He et al. 2016",
    ),
    _ALEXNET.member(
        "alexnet", _LARGE, 1000,
        "64@11/4/2, maximum 3/2/0, 192@5/1/2, maximum 3/2/0, 384@3/1/1, 256@3/1/1, 256@3/1/1, "
        "maximum 3/2/0, average onto 6 x 6, dropout, FC4096, dropout, FC4096",
        "Krizhevsky 2014 (one weird trick); Krizhevsky et al. 2012",
    ),
    _VGG.member(
        "vgg11", _LARGE, 1000,
        "64@3/1/1, 128@3/1/1, 2 of 256@3/1/1, 2 of 512@3/1/1, 2 of 512@3/1/1, each followed by a "
        "maximum 2/2/0; FC4096, dropout, FC4096, dropout",
        "Simonyan and Zisserman 2015, configuration A",
    ),
    _INCEPTION.member(
        "inception-v1", _LARGE, 1000,
        "64@7/2/3, maximum 3/2/1, 64@1/1/0, 192@3/1/1, maximum 3/2/1, nine inception modules "
        "with maxima 3/2/1 after the second and seventh, average, dropout",
        "Szegedy et al. 2015 (GoogLeNet), convolutions with bias and ReLU, no auxiliary classifier",
    ),
)  # fmt: skip
"""Every named network that is no stack."""
