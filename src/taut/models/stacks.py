"""The table of named stacks: the DM family, the sweeps, CNN7, fully connected networks."""

from __future__ import annotations

from taut.models.activations import Shape
from taut.models.convolutional import (
    cnn7,
    crown_3layer,
    dm_large,
    dm_medium,
    dm_small,
    fully_connected,
    unpadded,
)
from taut.models.description import Description, Family

DIGITS: Shape = (1, 28, 28)
PHOTOS: Shape = (3, 32, 32)
TINY: Shape = (3, 56, 56)
"""Crops of the 64 x 64 images of Tiny ImageNet."""

_GOWAL = "Gowal et al. 2018 (IBP)"
_CROWN = "Zhang et al. 2020 (CROWN-IBP)"
_ADVIBP = "Fan and Li 2021 (AdvIBP)"
_LBP = "Lyu et al. 2021 (LBP, ParamRamp)"
_XU = "Xu et al. 2020 (auto_LiRPA)"
_SHI = "Shi et al. 2021 (fast certified training)"
_SABR = "Müller et al. 2023 (SABR)"
_ABSCERT = "Zhang et al. 2023 (ABSCERT)"

_DM_SMALL = Family(dm_small, {"filters": (2, 3), "fc": 5}, (1, 12, 12))
_DM_MEDIUM = Family(dm_medium, {"filters": (2, 3), "fc": (5, 4)}, (1, 16, 16))
_DM_LARGE = Family(dm_large, {"filters": (2, 3), "fc": 5}, (3, 8, 8))
_THREE = Family(crown_3layer, {"filters": (2, 3), "fc": 5}, (1, 12, 12))
_TWO_NEW = Family(unpadded, {"filters": (2, 3), "fc": (5,)}, (1, 9, 9))
_FOUR_NEW = Family(unpadded, {"filters": (2, 3, 3, 4), "fc": (5, 4)}, (1, 15, 15))
_LARGE_NEW = Family(unpadded, {"filters": (2, 2, 3, 4, 4), "fc": (5,)}, (1, 19, 19))
_CNN7 = Family(cnn7, {"filters": (2, 3), "fc": 5}, (3, 8, 8))
_FC_3 = Family(fully_connected, {"hidden": (6,)}, (2, 4, 4))
_FC_5 = Family(fully_connected, {"hidden": (6, 4)}, (2, 4, 4))

_DM_MEDIUM_P1 = "32@3/1/1, 32@4/2/1, 64@3/1/1, 64@4/2/1, FC512, FC512"
_LARGE = "64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/1/1, FC512"
_STRIDED = "64@3/1/1, 64@3/1/1, 128@3/2/1, 128@3/1/1, 128@3/2/1, FC512"
_EACH = ", batch norm after each"
_CONVS = ", batch norm after each convolution"


def _dm() -> tuple[Description, ...]:
    return (
        _DM_SMALL.member(
            "dm-small-valid", DIGITS, 10, "16@4/2/0, 32@4/1/0, FC100",
            f"{_GOWAL}, the original without padding", padding=0,
        ),
        _DM_SMALL.member(
            "dm-small-p1", DIGITS, 10, "16@4/2/1, 32@4/1/1, FC100",
            f"{_GOWAL}, as in {_ADVIBP}", padding=1,
        ),
        _DM_SMALL.member(
            "dm-small-p2", DIGITS, 10, "16@4/2/2, 32@4/1/2, FC100",
            f"{_GOWAL}, as in {_LBP}", padding=2,
        ),
        _DM_SMALL.member(
            "dm-small-gm", DIGITS, 10, "8@4/2/1, 16@4/1/1, FC256",
            "Liang et al. 2023 (global and monotonically decreasing robustness), as its table "
            "prints DM-small, with padding 1",
            filters=(8, 16), strides=(2, 1), padding=1, fc=256,
        ),
        _DM_SMALL.member(
            "dm-small-crown8-16", DIGITS, 10, "8@4/2/1, 16@4/2/1, FC256",
            f"{_CROWN}, two layers of width 2; Liang et al. 2023 call it DM-small",
            filters=(8, 16), strides=(2, 2), padding=1, fc=256,
        ),
        _DM_MEDIUM.member(
            "dm-medium-valid", DIGITS, 10,
            "32@3/1/0, 32@4/2/0, 64@3/1/0, 64@4/2/0, FC512, FC512",
            f"{_GOWAL}, the original without padding", padding=(0, 0),
        ),
        _DM_MEDIUM.member(
            "dm-medium-p1", DIGITS, 10, _DM_MEDIUM_P1,
            f"{_GOWAL}, as in {_CROWN} and {_ADVIBP}", padding=(1, 1),
        ),
        _DM_MEDIUM.member(
            "dm-medium-p2", DIGITS, 10,
            "32@3/1/1, 32@4/2/2, 64@3/1/1, 64@4/2/2, FC512, FC512",
            f"{_GOWAL}, as in {_LBP}", padding=(1, 2),
        ),
        _DM_LARGE.member("dm-large", PHOTOS, 10, _LARGE, _GOWAL),
    )  # fmt: skip


def _sweeps() -> tuple[Description, ...]:
    """Width w multiplies 4 and 8 filters in all of these families."""
    two = [
        _DM_SMALL.member(
            f"crown-2layer-w{w}", DIGITS, 10, f"{4 * w}@4/2/1, {8 * w}@4/2/1, FC{128 * w}",
            f"{_CROWN}, width {w}",
            filters=(4 * w, 8 * w), strides=(2, 2), padding=1, fc=128 * w,
        )
        for w in (1, 2)
    ]  # fmt: skip
    three = [
        _THREE.member(
            f"crown-3layer-k{k}-w{w}", DIGITS, 10,
            f"{4 * w}@{k}/1/1, {8 * w}@{k}/1/1, {8 * w}@4/4/0, FC{64 * w}",
            f"{_CROWN}, kernel {k}, width {w}", kernel=k, filters=(4 * w, 8 * w), fc=64 * w,
        )
        for k in (3, 5)
        for w in (1, 2)
    ]  # fmt: skip
    four = [
        _four(f"crown-4layer-w{w}-fc{fc}", w, fc, f"{_CROWN}, width {w}, {fc} units")
        for w in (1, 2)
        for fc in (256, 512)
    ]
    return (*two, *four, *three)


def _four(name: str, w: int, fc: int, source: str) -> Description:
    narrow, wide = 4 * w, 8 * w
    return _DM_MEDIUM.member(
        name, DIGITS, 10,
        f"{narrow}@3/1/1, {narrow}@4/2/1, {wide}@3/1/1, {wide}@4/2/1, FC{fc}, FC{fc}",
        source, filters=(narrow, wide), padding=(1, 1), fc=(fc, fc),
    )  # fmt: skip


def _advibp() -> tuple[Description, ...]:
    """Width w multiplies 4, 8, 16 and 32 filters."""
    two = [
        _DM_SMALL.member(
            f"advibp-2layer-w{w}", DIGITS, 10, f"{4 * w}@4/2/1, {8 * w}@4/1/1, FC512",
            f"{_ADVIBP}, width {w}",
            filters=(4 * w, 8 * w), strides=(2, 1), padding=1, fc=512,
        )
        for w in (2, 4, 8)
    ]  # fmt: skip
    two_new = [
        _TWO_NEW.member(
            f"advibp-2layer-new-w{w}", DIGITS, 10, f"{4 * w}@3/2/0, {8 * w}@3/1/0, FC100",
            f"{_ADVIBP}, without padding, width {w}", filters=(4 * w, 8 * w), fc=(100,),
        )
        for w in (2, 4, 8)
    ]  # fmt: skip
    four = [
        _four(f"advibp-4layer-w{w}", w, 512, f"{_ADVIBP}, width {w}; the crown-4layer nets")
        for w in (2, 4)
    ]
    four_new = [
        _FOUR_NEW.member(
            f"advibp-4layer-new-w{w}", DIGITS, 10,
            f"{4 * w}@3/2/0, {8 * w}@3/1/0, {16 * w}@3/1/0, {32 * w}@3/1/0, FC512, FC512",
            f"{_ADVIBP}, without padding, width {w}",
            filters=(4 * w, 8 * w, 16 * w, 32 * w), fc=(512, 512),
        )
        for w in (2, 4)
    ]  # fmt: skip
    large_new = _LARGE_NEW.member(
        "advibp-large-new", DIGITS, 10,
        "64@3/2/0, 64@3/1/0, 128@3/1/0, 256@3/1/0, 256@3/1/0, FC512",
        f"{_ADVIBP}, without padding", filters=(64, 64, 128, 256, 256), fc=(512,),
    )  # fmt: skip
    return (*two, *two_new, *four, *four_new, large_new)


def _cnn7() -> tuple[Description, ...]:
    strided = (1, 1, 2, 1, 2)
    return (
        _CNN7.member("cnn7", PHOTOS, 10, _LARGE + _EACH, f"{_SHI}, {_SABR}, CTBench"),
        _CNN7.member(
            "cnn7-nobn", PHOTOS, 10, _LARGE,
            f"{_SHI}, without batch norm; the layers of DM-large", batch_norm=False,
        ),
        _CNN7.member("cnn7-xu", PHOTOS, 10, _LARGE + _CONVS, _XU, hidden_norm=False),
        _CNN7.member(
            "cnn7-narrow", PHOTOS, 10,
            "32@3/1/1, 32@3/1/1, 64@3/2/1, 64@3/1/1, 64@3/1/1, FC216" + _EACH,
            f"{_SABR}, width ablation", filters=(32, 64), fc=216,
        ),
        _CNN7.member(
            "cnn7-wide", PHOTOS, 10,
            "96@3/1/1, 96@3/1/1, 192@3/2/1, 192@3/1/1, 192@3/1/1, FC512" + _EACH,
            f"{_SABR}, width ablation", filters=(96, 192),
        ),
        _CNN7.member(
            "cnn7-tiny-sabr", TINY, 200, _LARGE + _EACH,
            f"{_SABR}, Tiny ImageNet; the layers of cnn7",
        ),
        _CNN7.member(
            "cnn7-tiny-xu", TINY, 200, _STRIDED + _CONVS, f"{_XU}, {_LBP}, Tiny ImageNet",
            strides=strided, hidden_norm=False,
        ),
        _CNN7.member(
            "cnn7-tiny-shi", (3, 64, 64), 200, _STRIDED + _EACH, f"{_SHI}, CTBench, Tiny ImageNet",
            strides=strided,
        ),
    )  # fmt: skip


def _fully_connected() -> tuple[Description, ...]:
    found = []
    for name, family, hidden in (("fc3", _FC_3, (512,)), ("fc5", _FC_5, (512, 128))):
        layers = ", ".join(f"FC{units}" for units in hidden)
        for activation in ("relu", "sigmoid", "tanh"):
            plain = activation == "relu"
            found.append(
                family.member(
                    name if plain else f"{name}-{activation}", DIGITS, 10,
                    layers if plain else f"{layers}, {activation} after each", _ABSCERT,
                    activation=activation, hidden=hidden,
                )
            )  # fmt: skip
    return tuple(found)


STACKS: tuple[Description, ...] = (
    *_dm(), *_sweeps(), *_advibp(), *_cnn7(), *_fully_connected()
)  # fmt: skip
"""Every named stack."""
