"""Several workers, one run: metrics of all of them, one decision, one file.

A `torch.distributed` group, a JAX of several processes or a `tf.distribute` cluster is found when a
run begins, and nothing needs to be said. What may be said: how a metric is put together (`Mean`,
`Sum`, `Min`, `Max`), and that a process is on its own (`alone`).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peakhold._core.aggregates import Max, Mean, Min, Sum
    from peakhold.distributed.contract import Channel, Coordinator
    from peakhold.distributed.finding import alone, coordinator_for, is_alone
    from peakhold.distributed.local import LocalCoordinator
    from peakhold.distributed.workers import Limits, Workers

__all__ = [
    "Channel",
    "Coordinator",
    "Limits",
    "LocalCoordinator",
    "Max",
    "Mean",
    "Min",
    "Sum",
    "Workers",
    "alone",
    "coordinator_for",
    "is_alone",
]

if not TYPE_CHECKING:
    from peakhold._names import lazily

    _HOMES = {
        **dict.fromkeys(("Max", "Mean", "Min", "Sum"), "peakhold._core.aggregates"),
        "Channel": "peakhold.distributed.contract",
        "Coordinator": "peakhold.distributed.contract",
        "Limits": "peakhold.distributed.workers",
        "LocalCoordinator": "peakhold.distributed.local",
        "Workers": "peakhold.distributed.workers",
        "alone": "peakhold.distributed.finding",
        "coordinator_for": "peakhold.distributed.finding",
        "is_alone": "peakhold.distributed.finding",
    }
    __getattr__ = lazily(globals(), _HOMES)
