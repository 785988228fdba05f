"""Look up fairseq's names: attributes with `attribute_of`, modules with a meta path finder for `fairseq.*`.

A name that is not offered raises AttributeError (attributes) or ModuleNotFoundError (imports), with a sentence from
`not_offered`, so that `hasattr` and `except ImportError` in other projects keep working. Modules need no code for this.
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
_HIDDEN = {"installed", "public_names"}  # internal: not in dir(fairseq)
# modules with names in the tables
_WITH_NAMES = {name.rpartition(".")[0] for name in [*elsewhere.NAMES, *not_offered.ADVICE]}


def attribute_of(module_name: str) -> Callable[[str], object]:
    """Make a module's `__getattr__` (PEP 562): it imports names from elsewhere, and submodules, on first use.

    Raises (the returned function):
        AttributeError: there is no such name; the message says if fairseq has it and this package does not.
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
    """What `dir(fairseq)` shows besides dunder names: functions, modules, and fairseq's older module names."""
    own = {found.name for found in pkgutil.iter_modules(sys.modules[ROOT].__path__)} - _HIDDEN
    older = {name.partition(".")[2] for name in elsewhere.MODULES if name.count(".") == 1}
    functions = {name.partition(".")[2] for name in elsewhere.NAMES if name.count(".") == 1}
    return sorted(own | older | functions)


class PublicNames:
    """A meta path finder for `fairseq.*`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a module's file, or of a fairseq module without a file here; None: neither.

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
            # without `name`: import statements would replace the message of an error that has one
            raise ModuleNotFoundError(sentence)
        return None


def _look_up_names_of(loader: Loader, is_package: bool) -> None:
    """Add a `__getattr__` to the module that this loader makes, after it has run."""
    run = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        run(module)
        _add_names(module, is_package)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def _add_names(module: ModuleType, is_package: bool) -> None:
    module.__getattr__ = attribute_of(module.__name__)  # type: ignore[method-assign]
    if not is_package:
        # for a plain module, `from module import name` only says "cannot import name"; for a package it calls the
        # finder, whose error has the sentence. An empty path makes no file importable.
        module.__path__ = []


class Examples:
    """A meta path finder for modules of fairseq's `examples`, after all others: a folder of that name comes first."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of such a module, or of an empty package above one; None for every other name."""
        if name in elsewhere.EXAMPLES:
            return ModuleSpec(name, ModuleLoader())
        if any(full.startswith(name + ".") for full in elsewhere.EXAMPLES):
            return ModuleSpec(name, None, is_package=True)
        return None


class ModuleLoader(Loader):
    """Loads a fairseq module without a file here: the module with its contents, or one that offers nothing."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        here = elsewhere.MODULES.get(name) or elsewhere.EXAMPLES.get(name)
        if here is not None:
            sys.modules[name] = importlib.import_module(here)
        else:
            module.__doc__ = not_offered.sentence(name + ".*")
            _add_names(module, is_package=False)


def install() -> None:
    """Make imports and attributes of `fairseq.*` use these tables; once per process."""
    if PublicNames not in sys.meta_path:
        sys.meta_path.insert(0, PublicNames)
        sys.meta_path.append(Examples)
