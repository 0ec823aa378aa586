"""Self-supervised objectives for relation modeling: images in, no labels.

A factory is `f(encoder, dtype, *, hyper-parameters) -> SelfSupervised`. Every objective trains
`params["encoder"]`, which becomes the teacher, below heads of its own. It logs `z_std` (see
`spread`), by which collapse is seen. `hidden` and `projection` are widths of projector and
predictor, `dtype` is what heads compute in. Statistics and negatives are of the whole batch.

Example:
  >>> import jax
  >>> import rmdnet_jax as rmd
  >>> encoder = rmd.ENCODERS["cnn"](widths=(4,))
  >>> ssl = rmd.SSL["simclr"](encoder, "float32", projection=8, hidden=8)
  >>> views = jax.random.uniform(jax.random.key(0), (ssl.views, 16, 8, 8, 1))
  >>> (params, stats), memory = ssl.init(jax.random.key(1), views[0])
  >>> loss, stats, memory, metrics = ssl.loss(params, stats, memory, views, 0.0)
  >>> sorted(params), sorted(metrics)
  (['encoder', 'projector'], ['z_std'])
"""

from __future__ import annotations

from rmdnet_jax.ssl.apart import barlow_twins, coding_rate, emp, simclr, vicreg
from rmdnet_jax.ssl.parts import Factory, SelfSupervised, chain, joint, negative_cosine, spread
from rmdnet_jax.ssl.predicted import byol, simsiam

__all__ = [
    "SSL", "Factory", "SelfSupervised", "barlow_twins", "byol", "chain", "coding_rate", "emp",
    "joint", "negative_cosine", "simclr", "simsiam", "spread", "vicreg",
]  # fmt: skip

SSL: dict[str, Factory] = {
    "simsiam": simsiam,
    "byol": byol,
    "simclr": simclr,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
    "emp": emp,
}
"""Objectives by name, `(encoder, dtype, *, fields) -> SelfSupervised`."""
