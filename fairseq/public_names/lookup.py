"""How a name of fairseq is looked up: attributes by `attribute_of`, modules by a finder that comes first for
`fairseq.*`.

What is not offered raises AttributeError (attributes) or ModuleNotFoundError (imports), with a sentence from
`not_offered`, so that `hasattr` and `except ImportError` in other projects keep working. Modules need no line of their
own for this.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from fairseq.public_names import elsewhere, not_offered

ROOT = "fairseq"
_HIDDEN = {"installed", "public_names"}  # not for users: missing from dir(fairseq)
# modules that the tables know names of
_WITH_NAMES = {name.rpartition(".")[0] for name in [*elsewhere.NAMES, *not_offered.ADVICE]}


def attribute_of(module_name: str) -> Callable[[str], object]:
    """The `__getattr__` of a module (PEP 562): names that live elsewhere, and a package's submodules, imported on first
    use.

    Raises (the function that is returned):
        AttributeError: there is no such name; says so if fairseq has it and this package does not.
    """

    def get(name: str) -> object:
        full = f"{module_name}.{name}"
        if not name.startswith("_") and name.isidentifier():
            if full in elsewhere.NAMES:
                home, name_there = elsewhere.NAMES[full]
                return getattr(importlib.import_module(home), name_there)
            sentence = not_offered.sentence(full)
            if sentence is not None:
                raise AttributeError(sentence)
            if importlib.util.find_spec(full) is not None:
                return importlib.import_module(full)
        raise AttributeError(f"module {module_name!r} has no attribute {name!r}")

    return get


def public_names() -> list[str]:
    """What `dir(fairseq)` shows besides dunder names: functions, the modules of the package, and fairseq's older
    names of modules.
    """
    own = {found.name for found in pkgutil.iter_modules(sys.modules[ROOT].__path__)} - _HIDDEN
    older = {name.partition(".")[2] for name in elsewhere.MODULES if name.count(".") == 1}
    functions = {name.partition(".")[2] for name in elsewhere.NAMES if name.count(".") == 1}
    return sorted(own | older | functions)


class PublicNames:
    """A meta path finder for `fairseq.*`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's file, or what stands for a module of fairseq that has no file here; None: neither.

        Raises:
            ModuleNotFoundError: a name of fairseq that is not offered.
        """
        if not name.startswith(ROOT + "."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            if spec.loader is not None and (spec.submodule_search_locations is not None or name in _WITH_NAMES):
                _look_up_names_of(spec.loader, is_package=spec.submodule_search_locations is not None)
            return spec
        if name in elsewhere.MODULES or name in not_offered.EMPTY_MODULES:
            return ModuleSpec(name, ModuleLoader())
        sentence = not_offered.sentence(name)
        if sentence is not None:
            # without its `name`: import statements replace the message of one that has it
            raise ModuleNotFoundError(sentence)
        return None


def _look_up_names_of(loader: Loader, is_package: bool) -> None:
    """Give the module that this loader makes a `__getattr__`, once it has run."""
    run = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        run(module)
        _add_names(module, is_package)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def _add_names(module: ModuleType, is_package: bool) -> None:
    module.__getattr__ = attribute_of(module.__name__)  # type: ignore[method-assign]
    if not is_package:
        # `from module import name` says no more than "cannot import name" for a plain module; for a package it asks the
        # finder, whose error carries the sentence. No file is importable by an empty path.
        module.__path__ = []


class ModuleLoader(Loader):
    """Loads a module of fairseq that has no file here: the one that has its contents, or one of which nothing is
    offered.
    """

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name in elsewhere.MODULES:
            sys.modules[name] = importlib.import_module(elsewhere.MODULES[name])
        else:
            module.__doc__ = not_offered.sentence(name + ".*")
            _add_names(module, is_package=False)


def install() -> None:
    """Make import statements and attributes of `fairseq.*` follow these tables; once per process."""
    if PublicNames not in sys.meta_path:
        sys.meta_path.insert(0, PublicNames)
