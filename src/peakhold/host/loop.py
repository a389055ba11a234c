"""The host of a loop that a user wrote, in any framework or none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FrameType
from typing import Any, BinaryIO

from peakhold import speech
from peakhold._core.monitor import Direction
from peakhold._version import __version__
from peakhold.errors import HostError
from peakhold.host.contract import (
    OPTIMIZER,
    WEIGHTS,
    CannotPlanError,
    Parts,
    PlannedFile,
)
from peakhold.host.finite import nonfinite_names
from peakhold.host.gradients import GradientFacts
from peakhold.host.loop_gradients import LoopGradients
from peakhold.host.models import Models, StateNames
from peakhold.host.module_names import ModuleNames
from peakhold.host.named_file import check_named, safetensors_of, write_whole
from peakhold.host.nnx_state import is_of_nnx
from peakhold.host.onto_live import TakenApart, taken_apart
from peakhold.host.optimizers import Optimizers
from peakhold.host.pieces import are_known, is_in_pieces, whole_tensors
from peakhold.host.resume import LoopResumption, Resumption
from peakhold.host.state_dicts import module_like
from peakhold.host.torch_tensors import is_lazy
from peakhold.trees import TooDeepError, Walked, leaf_list, leaves, map_tree, to_host

__all__ = ["LoopHost"]


class LoopHost:
    """The host of a loop that a user wrote, in any framework or none.

    Args:
        model: Something with `get_weights()` and `set_weights()`, or with `state_dict()` and
            `load_state_dict()` (a `torch.nn.Module`), or a module of Flax NNX, or None. Its
            `stop_training` is set where it takes attributes. A dict of such models by name, as for
            a GAN, is one state: files and backups have their arrays as `g.0.weight`.
        optimizer: A `torch.optim.Optimizer`, an `nnx.Optimizer`, or anything with a `learning_rate`
            that can be set; a dict of those by name, whose rates are `g`, `d`.
        get_state: Instead of the model's methods, a function that returns the weights as nested
            dicts, lists and tuples of arrays (JAX: `lambda: params`); named tuples, dataclasses and
            what else JAX takes for a node may be in it.
        set_state: The function that takes them back, in the types that `get_state` shows then.
        get_learning_rate: A function that returns the rate, if no optimizer object holds it.
        set_learning_rate: The function that sets it.
        save: `save(path)` writes the model in a format of your own; any suffix is allowed then.
        get_gradients: A function that returns the last batch's gradients as nested dicts, lists and
            tuples of arrays. It is asked at each batch by a callback that looks at each, such as
            `TerminateOnNaN`, else at the end of an epoch. Loops of PyTorch need none: the
            optimizer's gradients are looked at in each of its steps.

    Example:
        >>> params = {"w": [1.0]}
        >>> host = LoopHost(get_state=lambda: params, set_state=params.update)
        >>> copy = host.snapshot(["weights"])
        >>> params["w"] = [2.0]
        >>> host.restore(copy)
        >>> params
        {'w': [1.0]}
    """

    def __init__(
        self,
        model: Any = None,
        *,
        optimizer: Any = None,
        get_state: Callable[[], Any] | None = None,
        set_state: Callable[[Any], Any] | None = None,
        get_learning_rate: Callable[[], float] | None = None,
        set_learning_rate: Callable[[float], Any] | None = None,
        save: Callable[[str], Any] | None = None,
        get_gradients: Callable[[], Any] | None = None,
    ) -> None:
        self.model = model
        self.models = Models(model)
        self.optimizers = Optimizers(
            optimizer if optimizer is not None else getattr(model, "optimizer", None),
            self.models.by_name,
        )
        self._get_state, self._set_state = get_state, set_state
        self._names: StateNames = ModuleNames(None)
        if get_state is None:
            self._get_state, self._set_state = self.models.get_state, self.models.set_state
            self._names = self.models.names
        self._get_rate, self._set_rate = get_learning_rate, set_learning_rate
        self._save = save
        given = None if get_gradients is None else lambda: leaves(get_gradients())
        self._gradients = LoopGradients(self.models, self.optimizers, given)
        self._code: CodeType | None = None
        self._before_gathering: Callable[[], Any] | None = None
        self._taken_apart = {WEIGHTS: TakenApart(), OPTIMIZER: TakenApart()}
        self.stop_training = False
        self.program_counts = False
        """Whether what the program has changed since a run began is put in after a resume."""

    def describe(self) -> str:
        if self.model is None:
            return "a loop"
        return " and ".join(dict.fromkeys(type(model).__name__ for model in self.models))

    # State

    def parts(self) -> tuple[str, ...]:
        return ((WEIGHTS,) if self._get_state and self._set_state else ()) + (
            (OPTIMIZER,) if self.optimizers.have_state else ()
        )

    def borrow(self, parts: Iterable[str]) -> Parts:
        trees = Walked()
        for part in parts:
            if part == WEIGHTS and self._get_state:
                state = self._names.to_plain(self._get_state())
            elif part == OPTIMIZER:
                state = self.optimizers.state()
            else:
                continue
            trees[part], walk = self._taken_apart[part].of(state)
            if walk is not None:
                trees.walks[part] = walk
        return trees

    def _weights(self) -> Any:
        """The weights; those of a lazy module that have no values yet are left out."""
        tree = self.borrow([WEIGHTS]).get(WEIGHTS)
        return tree if self.ensure_built([WEIGHTS]) else map_tree(tree, _unless_lazy)

    def ensure_built(self, parts: Iterable[str]) -> bool:
        state = self._get_state() if self._get_state else None
        try:
            return not any(map(is_lazy, leaf_list(state)))
        except TooDeepError:
            return True  # `borrow` says so

    def named(self, part: str, tree: Any) -> list[tuple[str, Any]]:
        return list(leaves(tree, convert=False))

    def snapshot(self, parts: Iterable[str]) -> Parts:
        return self.like_live(self.borrow(parts))

    def like_live(self, snapshot: Parts) -> Parts:
        return {part: self._like_live(part, tree) for part, tree in snapshot.items()}

    def _like_live(self, part: str, tree: Any) -> Any:
        if part == WEIGHTS and self._get_state:
            return module_like(tree, self._get_state(), self._names)
        if part == OPTIMIZER:
            return self.optimizers.like(tree)
        return tree  # of a callback that was copied or pickled, without a model

    def fitted(self, weights: Any) -> Any:
        """Kept weights under the names that `borrow` gives to the live ones."""
        live = self._get_state() if self._get_state else None
        return self._names.fitted(weights, self._names.to_plain(live))

    def restore(self, snapshot: Parts) -> None:
        # In copies: a loop may train on from what it was given, and ours stays good.
        trees = self.like_live(snapshot)
        if WEIGHTS in trees and self._set_state:
            self._set_state(trees[WEIGHTS])
        if OPTIMIZER in trees:
            self.optimizers.load(trees[OPTIMIZER])

    def nonfinite(self) -> frozenset[str]:
        return nonfinite_names(leaves(self._weights()))

    def nonfinite_in(self, snapshot: Parts) -> frozenset[str]:
        weights = snapshot.get(WEIGHTS)
        # One of `snapshot` has the live types, and names.
        plain = None if weights is None else taken_apart(self._names.to_plain(weights))
        return nonfinite_names(leaves(plain))

    def unsynced_weights(self) -> frozenset[str]:
        return self.models.buffers() if self._get_state == self.models.get_state else frozenset()

    def is_sharded(self) -> bool:
        if not are_known() or self._get_state is None:
            return False
        try:
            return any(map(is_in_pieces, leaf_list(self._get_state())))
        except TooDeepError:
            return False  # `borrow` says so

    def call_before_gathering(self, work: Callable[[], Any] | None) -> None:
        self._before_gathering = work

    def enter_save(self) -> None:
        """Whole tensors are gathered by all; alone each process reads its own."""
        if self.is_sharded():
            for _ in whole_tensors(leaf_list(self._live())):
                pass

    def _live(self) -> Any:
        """The state as it lives, under plain names, in the order of the module."""
        return self._names.to_plain(self._get_state()) if self._get_state else None

    def state_bytes(self, *, weights_only: bool = False) -> int | None:
        if not self._get_state or not self.ensure_built([WEIGHTS]):
            return None
        if self.is_sharded():  # a file holds the whole
            tensors = (leaf for leaf in leaf_list(self._live()) if hasattr(leaf, "element_size"))
            return sum(int(one.nelement() * one.element_size()) for one in tensors)
        return sum(getattr(leaf, "nbytes", 8) for _, leaf in leaves(self._weights()))

    def named_weights(self) -> Iterable[tuple[str, Any]]:
        return leaves(self._weights())

    def steps_done(self) -> int | None:
        return None

    # Gradients

    def gradient_facts(self) -> GradientFacts | None:
        return self._gradients.facts()

    def forget_gradients(self) -> None:
        self._gradients.forget()

    def gradients(self) -> Iterable[tuple[str, Any]] | None:
        arrays = self._gradients.arrays()
        return None if arrays is None else ((name, to_host(array)) for name, array in arrays)

    def check_gradients(self, callback: str, *, arrays: bool) -> None:
        if not self._gradients.seen:
            raise HostError.lacks(
                callback,
                "gradients that can be seen",
                self.describe(),
                hint="pass CallbackList(..., optimizer=optimizer) with an optimizer of PyTorch, or "
                "host=LoopHost(get_gradients=...).",
            )

    # Learning rates

    def learning_rates(self) -> dict[str, float]:
        if self._get_rate is not None:
            return {"": float(self._get_rate())}
        return self.optimizers.rates()

    def set_learning_rate(self, name: str, value: float) -> None:
        if self._set_rate is not None:
            self._set_rate(value)
        else:
            self.optimizers.set_rate(name, value)

    def at_next_step(self, work: Callable[[], Any]) -> None:
        self.optimizers.at_next_step(work)

    def check_rates_settable(self, callback: str) -> None:
        if not self.learning_rates() or (self._get_rate is not None and self._set_rate is None):
            raise HostError.lacks(
                callback,
                "an optimizer whose learning rate can be set",
                self.describe(),
                hint="pass CallbackList(..., optimizer=optimizer), or "
                "host=LoopHost(get_learning_rate=..., set_learning_rate=...).",
            )

    def rate_schedule(self) -> tuple[str, int] | None:
        return None

    # Control

    def request_stop(self) -> None:
        self._set_flag(stop=True)

    def clear_stop(self) -> None:
        self._set_flag(stop=False)

    def _set_flag(self, *, stop: bool) -> None:
        self.stop_training = stop
        if is_of_nnx(self.model):
            return
        # None, frozen and slotted objects take no attribute: there the list tells.
        with contextlib.suppress(AttributeError, TypeError):
            self.model.stop_training = stop

    def stop_requested(self) -> bool:
        return bool(self.stop_training or getattr(self.model, "stop_training", False))

    def remember_loop(self, frame: FrameType) -> None:
        self._code = frame.f_code  # keeping the frame would keep its data alive

    def owns_frame(self, frame: FrameType) -> bool:
        return frame.f_code is self._code

    # Files

    def file_suffixes(self) -> tuple[str, ...] | None:
        if self._save is not None:
            return None
        return (".safetensors",) if self._get_state else ()

    def write(self, file: BinaryIO, suffix: str, scratch: str) -> None:
        import os
        import shutil
        import tempfile

        if self._save is None and self.is_sharded():
            write_whole(file, self._live(), self._before_gathering)
            return
        if self._save is None:
            file.write(safetensors_of(self._weights() or {}))
            return
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".peakhold-") as folder:
            path = os.path.join(folder, f"model{suffix}")
            self._save(path)
            with open(path, "rb") as written:
                shutil.copyfileobj(written, file, 1 << 20)

    def plan_file(self, suffix: str) -> PlannedFile:
        if self._save is not None:
            raise CannotPlanError("the loop's own save() needs the model itself")
        if not self._get_state:
            raise CannotPlanError("there is no state to copy")
        self.check_file(suffix)
        if self.is_sharded():
            raise CannotPlanError("its weights lie on several workers, which gather them")
        return _PlannedSafetensors()

    def check_file(self, suffix: str) -> None:
        if self._save is None and self._get_state:
            check_named(self._live() if self.is_sharded() else self._weights())

    def runs_fit(self) -> bool:
        return False

    def settable_groups(self) -> Mapping[str, Any]:
        optimizers = self.optimizers.by_name
        return {name: one for name, one in optimizers.items() if hasattr(one, "param_groups")}

    def let_program_count(self) -> None:
        self.program_counts = True

    def versions(self) -> dict[str, str]:
        return {"peakhold": __version__}

    # Resume

    def resumption(self) -> Resumption:
        return LoopResumption(self)

    # Metrics

    def metric_names(self) -> tuple[str, ...] | None:
        return None

    def metric_directions(self) -> dict[str, Direction | None]:
        return {}

    def check_workers(self) -> None:
        """It is the user's own."""

    def validates(self) -> bool | None:
        return None

    def first_validation(self) -> int | None:
        return None

    # Words

    def say(self, message: str) -> None:
        speech.say(message)


class _PlannedSafetensors:
    parts: tuple[str, ...] = (WEIGHTS,)
    extra_bytes = 0

    def write(self, file: BinaryIO, held: Mapping[str, Any]) -> None:
        file.write(safetensors_of(held[WEIGHTS]))


def _unless_lazy(leaf: Any) -> Any:
    return None if is_lazy(leaf) else leaf
