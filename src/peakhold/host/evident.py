"""What a loop evidently has, and its backup does not hold: optimizers, schedulers, scalers.

A hint, never a ground for an error. Objects of PyTorch are looked for among the variables of the
loop's own frame, and of the object whose method it is. An optimizer is the loop's if it has a
parameter of its model; a scheduler, if its optimizer is; an averaged model, if its parameters have
the shapes of the model's; a scaler belongs to whoever has it in hand and trains with PyTorch, and
so does an optimizer of Flax NNX, which does not say whose it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from peakhold.host.contract import WEIGHTS
from peakhold.host.extras import Extras
from peakhold.host.nnx_state import is_of_nnx

__all__ = ["Evident", "evidently_missing", "missing_words"]


class Evident(NamedTuple):
    """An object that a loop has in hand."""

    name: str
    """The variable."""
    kind: str
    """Its class."""
    is_optimizer: bool


def missing_words(host: Any, extras: Extras) -> str | None:
    """What a backup will not hold, and what to pass; None if there is nothing.

    Args:
        host: The loop's host.
        extras: What its list was given besides.
    """
    models = getattr(host, "models", None)
    if models is None:  # no loop
        return None
    given = [type(model).__name__ for model in models if model is not None]
    if given and WEIGHTS not in host.parts():
        return (
            f"the backup does not hold the model ({given[0]}): how to get and set its weights is "
            "not known; a run that is resumed begins anew there. Hint: pass "
            "host=LoopHost(get_state=..., set_state=...)."
        )
    held = [*models, *host.optimizers, *extras.objects()]
    found = evidently_missing(_frame_of(host), list(models), held)
    if not found:
        return None
    named = " and ".join(f"{one.name} ({one.kind})" for one in found)
    short = {one: one.name.rpartition(".")[2] for one in found}
    optimizers = [one for one in found if one.is_optimizer]
    passed = []
    if len(optimizers) == 1:
        passed.append(f"optimizer={optimizers[0].name}")
    elif optimizers:
        listed = ", ".join(f'"{short[one]}": {one.name}' for one in optimizers)
        passed.append(f"optimizer={{{listed}}}")
    others = ", ".join(f'"{short[one]}": {one.name}' for one in found if not one.is_optimizer)
    if others:
        passed.append(f"extra={{{others}}}")
    return (
        f"the backup does not hold {named}, which this loop has; a run that is resumed begins "
        f"anew there. Hint: pass {', '.join(passed)}"
    )


def _frame_of(host: Any) -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not host.owns_frame(frame):
        frame = frame.f_back
    return frame


def evidently_missing(
    frame: FrameType | None, models: Iterable[Any], held: Iterable[Any]
) -> list[Evident]:
    """Objects with a state that a loop has, and that nobody holds.

    Args:
        frame: The loop's own; None: not known, then nothing is evident.
        models: The modules that are trained.
        held: What is in the backup.
    """
    if frame is None:
        return []
    known = {id(one) for one in held}
    models = list(models)
    if any(map(is_of_nnx, models)):
        return _of_nnx(frame, known)
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    modules = [model for model in models if isinstance(model, torch.nn.Module)]
    if not modules:  # a console may have objects of PyTorch's from before
        return []
    trained = {id(parameter) for module in modules for parameter in module.parameters()}
    found: dict[int, Evident] = {}
    optimizers = set(known)
    for name, one in _in_hand(frame):
        if isinstance(one, torch.optim.Optimizer) and _has_one_of(one, trained):
            optimizers.add(id(one))
            found.setdefault(id(one), Evident(name, type(one).__name__, True))
    schedulers: Any = torch.optim.lr_scheduler
    scalers: Any = getattr(torch.amp, "GradScaler", ())
    averages: Any = torch.optim.swa_utils.AveragedModel
    plateau = schedulers.ReduceLROnPlateau  # no LRScheduler before PyTorch 2.2
    for name, one in _in_hand(frame):
        is_scheduler = isinstance(one, (schedulers.LRScheduler, plateau))
        is_of_this = is_scheduler and id(getattr(one, "optimizer", None)) in optimizers
        is_scaler = isinstance(one, scalers) and one.is_enabled()
        is_average = isinstance(one, averages) and _shapes(one) in map(_shapes, modules)
        if is_of_this or is_scaler or is_average:
            found.setdefault(id(one), Evident(name, type(one).__name__, False))
    return [one for key, one in found.items() if key not in known]


def _of_nnx(frame: FrameType, known: set[int]) -> list[Evident]:
    nnx: Any = sys.modules["flax.nnx"]
    found = {
        id(one): Evident(name, type(one).__name__, True)
        for name, one in _in_hand(frame)
        if isinstance(one, nnx.Optimizer)
    }
    return [one for key, one in found.items() if key not in known]


def _shapes(module: Any) -> list[Any]:
    return [parameter.shape for parameter in module.parameters()]


def _has_one_of(optimizer: Any, trained: set[int]) -> bool:
    return any(id(p) in trained for group in optimizer.param_groups for p in group["params"])


def _in_hand(frame: FrameType) -> Iterator[tuple[str, Any]]:
    for name, value in list(frame.f_locals.items()):
        yield name, value
        if name == "self":
            yield from ((f"self.{key}", one) for key, one in list(_vars_of(value).items()))


def _vars_of(value: Any) -> dict[str, Any]:
    """The attributes of an object; none where it has none of its own."""
    return dict(getattr(value, "__dict__", {}))
