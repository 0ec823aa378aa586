"""Base methods: how labels that may be wrong become a loss.

A factory is `f(num_examples, num_classes, *, hyper-parameters) -> Method`; its keyword defaults are
the configuration. Add a method by `METHODS["name"] = factory`.
"""

from collections.abc import Callable

from rmdnet_jax.methods.consistency import consistency
from rmdnet_jax.methods.dividemix import dividemix
from rmdnet_jax.methods.elr import elr
from rmdnet_jax.methods.method import Method, from_criterion
from rmdnet_jax.methods.mixup import mixup
from rmdnet_jax.methods.peers import co_teaching, jocor
from rmdnet_jax.methods.robust import ce, gce, sce

__all__ = ["METHODS", "Method", "consistency", "from_criterion", "mixup"]

METHODS: dict[str, Callable[..., Method]] = {
    "ce": ce,
    "gce": gce,
    "sce": sce,
    "elr": elr,
    "co_teaching": co_teaching,
    "jocor": jocor,
    "dividemix": dividemix,
}
"""Methods by name, `(num_examples, num_classes, *, fields) -> Method`."""
