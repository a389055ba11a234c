"""What workers agree on: the coordinator's contract. Only the session asks it."""

from peakhold.distributed.contract import Coordinator
from peakhold.distributed.local import LocalCoordinator

__all__ = ["Coordinator", "LocalCoordinator"]
