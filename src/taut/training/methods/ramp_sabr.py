"""SABR on ParamRamp networks, a combination that has not been published."""

from taut.training.methods import sabr
from taut.training.methods.base import Description

METHOD = Description(
    "ramp-sabr",
    "SABR for networks with ParamRamp; the method is sabr, the activation the network's own",
    "",
    "small box x ibp x robust loss alone",
    "as sabr; choose the activation with model.options.activation",
    "as sabr",
    sabr.METHOD.method,
)
