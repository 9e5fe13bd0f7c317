"""Lets Red Bird and Rocketry, which are written for pydantic 1, run beside pydantic 2.

In: an import of ``redbird`` or ``rocketry``, from whatever place. Out: the same module, in which
``pydantic`` means ``pydantic.v1``. No other module sees a difference: ``sys.modules`` stays as it
is, so it does not matter what other threads import meanwhile. With pydantic 1 nothing is changed.

A line in ``rocketry_otel.pth`` imports this module when the interpreter starts. So an application
may import ``rocketry`` before ``rocketry_otel``. This module therefore lies beside the package,
and imports nothing but ``sys`` and ``os``, which every interpreter has, before it is needed
(not even ``__future__``, hence the quotes).

PYTEST_DONT_REWRITE: pytest comes later than this module, and would warn of it.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

VARIABLE = "ROCKETRY_OTEL_PYDANTIC"
OFF = ("0", "false", "off", "no")

_PACKAGES = frozenset({"redbird", "rocketry"})
_PYDANTIC = "pydantic"
_V1 = "pydantic.v1"


class V1Finder:
    """A finder that finds nothing itself: it prepares what the finders behind it find."""

    @staticmethod
    def find_spec(
        fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec of a module of Red Bird or Rocketry, prepared for pydantic 2.

        Args:
            fullname: The module's name.
            path: Where its package looks for modules.
            target: The module, if it is imported again.

        Returns:
            The spec; ``None`` for any other module, and for every module with pydantic 1.
        """
        if not _is_meant(fullname):
            return None
        if not _is_needed():
            remove()
            return None
        finders = (one for one in tuple(sys.meta_path) if one is not V1Finder)
        for finder in finders:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                return _prepared(spec)
        return None


def install() -> None:
    """Let the modules of Red Bird and Rocketry that are imported from now on see pydantic 1.

    Nothing happens if it is installed, or if ``ROCKETRY_OTEL_PYDANTIC`` switches it off.
    """
    is_off = os.environ.get(VARIABLE, "").strip().lower() in OFF
    if not is_off and V1Finder not in sys.meta_path:
        sys.meta_path.insert(0, V1Finder)
        _forget_broken_imports()


def remove() -> None:
    """Take the finder away again. What has been imported stays as it is."""
    if V1Finder in sys.meta_path:
        sys.meta_path.remove(V1Finder)


def _forget_broken_imports() -> None:
    # Without the line that the interpreter runs at its start, an earlier import may have failed.
    # Some modules were imported with pydantic 2 before the first one failed.
    for package in _PACKAGES - sys.modules.keys():
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            del sys.modules[name]


def _is_meant(module: str) -> bool:
    return module.partition(".")[0] in _PACKAGES


def _is_needed() -> bool:
    try:
        import pydantic  # noqa: PLC0415  # the module that is wanted imports it next
    except ImportError:
        return False
    return not pydantic.VERSION.startswith("1.")


def _prepared(spec: "ModuleSpec") -> "ModuleSpec":
    """Let the loader run the module with an import statement of our own."""
    import copy  # noqa: PLC0415

    if not hasattr(spec.loader, "exec_module"):
        return spec
    # A copy: one loader may serve many modules.
    loader: Any = copy.copy(spec.loader)
    run = loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        vars(module)["__builtins__"] = _builtins()
        before = sys.modules.get(_PYDANTIC)
        try:
            run(module)
        finally:
            # The fork `rocketry-fix` puts there what it takes for pydantic.
            if before is not None and sys.modules.get(_PYDANTIC) is not before:
                sys.modules[_PYDANTIC] = before

    loader.exec_module = exec_module
    spec.loader = loader
    return spec


def _builtins() -> "dict[str, Any]":
    """Return the built-in names, with an ``import`` statement for which pydantic is pydantic 1.

    Functions of a module use them too, so an import inside a function sees the same.
    """
    import builtins  # noqa: PLC0415

    return {**vars(builtins), "__import__": _import_v1}


def _import_v1(
    name: str,
    globals: "Mapping[str, object] | None" = None,  # noqa: A002  # as the interpreter names them
    locals: "Mapping[str, object] | None" = None,  # noqa: A002
    fromlist: "Sequence[str] | None" = (),
    level: int = 0,
) -> "Any":
    import builtins  # noqa: PLC0415

    # Code of the user's that Rocketry runs by `exec` has the built-in names of Rocketry.
    importer = str((globals or {}).get("__name__"))
    is_other = level != 0 or name.partition(".")[0] != _PYDANTIC or not _is_meant(importer)
    if is_other or name == _V1 or name.startswith(f"{_V1}."):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    v1 = builtins.__import__(_V1 + name[len(_PYDANTIC) :], globals, locals, fromlist or ("*",))
    return v1 if fromlist else sys.modules[_V1]


install()
