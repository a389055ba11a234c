"""Names of a package that bring their module along when they are first used."""

from collections.abc import Callable, Mapping

__all__ = ["lazily"]


def lazily(names: dict[str, object], homes: Mapping[str, str]) -> Callable[[str], object]:
    """A module's `__getattr__`.

    Args:
        names: The module's `globals()`: what was used once stands there.
        homes: The module in which each name stands.
    """

    def get(name: str) -> object:
        from importlib import import_module

        if name not in homes:
            raise AttributeError(f"module {names['__name__']!r} has no attribute {name!r}")
        value = names[name] = getattr(import_module(homes[name]), name)
        return value

    return get
