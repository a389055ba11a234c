"""What Keras 2's own callbacks are known for."""

from __future__ import annotations

import tf_keras

from peakhold.keras.host.own_callbacks import OwnCallbacks

__all__ = ["is_list", "stateless_base", "traits_of"]

_tf_keras = OwnCallbacks(tf_keras.callbacks)
traits_of, stateless_base, is_list = (
    _tf_keras.traits_of,
    _tf_keras.stateless_base,
    _tf_keras.is_list,
)
