"""The architecture, kept by reading the source: floors of imports, sizes, and habits that the house rules forbid.

A module imports from lower floors, or from its own package. `__init__.py` files fill the registries and are exempt from
floors.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from scripts import count_any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fairseq", "fairseq_cli")

# the longest prefix that matches says the floor
FLOORS = {
    "fairseq_cli": 10,
    "fairseq.preflight": 9,
    "fairseq.evaluation": 9,
    "fairseq.trainer": 8,
    "fairseq.training": 8,
    "fairseq.inference": 8,
    "fairseq.hub_utils": 8,
    "fairseq.conversion.convert": 8,
    "fairseq.checkpoint_utils": 7,
    "fairseq.checkpoint": 7,
    "fairseq.tasks": 6,
    "fairseq.conversion": 6,
    "fairseq.corpora": 6,
    "fairseq.models": 5,
    "fairseq.tokenizer": 5,
    "fairseq.criterions": 5,
    "fairseq.data": 4,
    "fairseq.alignment": 5,
    "fairseq.decoding": 4,
    "fairseq.modules": 4,
    "fairseq.optim": 4,
    "fairseq.scoring": 4,
    "fairseq.distributed": 3,
    "fairseq.doctor": 3,
    "fairseq.utils": 2,
    "fairseq.masks": 1,
    "fairseq.registry": 1,
    "fairseq.dataclass": 1,
    "fairseq.logging": 1,
    "fairseq.pages": 1,
    "fairseq.logging.sinks": 2,
    "fairseq.device": 0,
    "fairseq.frames": 0,
    "fairseq.logging.meters": 0,
    "fairseq.installed": -1,  # imports nothing
    "fairseq.text_files": 0,
    "fairseq.file_io": 0,
    "fairseq.stores": 0,
    "fairseq.public_names": 0,
    "fairseq.version": 0,
}
# the public module of a floor over the package that does its work
SAME_FLOOR = {
    ("fairseq.trainer", "fairseq.training"),
    ("fairseq.checkpoint_utils", "fairseq.checkpoint"),
    ("fairseq.registry", "fairseq.dataclass"),
}
MAX_LINES, MAX_FUNCTION_LINES = 500, 100
MAX_BARE_ANY = 451  # annotations that are exactly Any; lower it when there are fewer


def source_files() -> list[Path]:
    # fairseq/examples is a link in a checkout, which rglob does not follow, and a folder in a source distribution
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in found if ROOT / "fairseq" / "examples" not in path.parents)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in source_files()}


@cache
def trees() -> dict[str, ast.Module]:
    """The parsed modules; not at import, which every worker of pytest-xdist does."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def unit_of(module: str) -> str | None:
    """The entry of FLOORS that a module belongs to."""
    fitting = [prefix for prefix in FLOORS if module == prefix or module.startswith(prefix + ".")]
    return max(fitting, key=len, default=None)


def imports_of(tree: ast.AST, module: str, is_package: bool, known: dict[str, object]) -> Iterator[tuple[str, int]]:
    """(module of this project, line) of every import anywhere in a file, in functions too, by import_module too."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            targets = [
                arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            ]
        for target in targets:
            if target.split(".")[0] in PACKAGES:
                yield target, node.lineno


def breaks_floors(module: str, target: str) -> bool:
    own, other = unit_of(module), unit_of(target)
    if target in PACKAGES and target == "fairseq":
        return False  # the package itself: version and path
    if own is None or other is None:
        return True
    if own == other or (own, other) in SAME_FLOOR:
        return False
    return FLOORS[other] >= FLOORS[own]


def listed(offenders: list[str]) -> str:
    """A message that names all of them: pytest shortens lists."""
    return "\n" + "\n".join(offenders)


def test_every_module_has_a_floor() -> None:
    assert [name for name in MODULES if name != "fairseq" and unit_of(name) is None] == []


def test_imports_go_down() -> None:
    offenders = [
        f"{module}:{line} imports {target}"
        for module, path in MODULES.items()
        if path.name != "__init__.py"
        for target, line in imports_of(trees()[module], module, False, MODULES)
        if breaks_floors(module, target)
    ]
    assert not offenders, listed(offenders)


def test_no_cycle_among_modules() -> None:
    plain = {name for name, path in MODULES.items() if path.name != "__init__.py"}
    graph = {name: {target for target, _ in imports_of(trees()[name], name, False, MODULES)} & plain for name in plain}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(plain):
        visit(name, [])


def test_floor_check_sees_what_it_must() -> None:
    known = {"fairseq.models.wav2vec.wav2vec2": None, "fairseq.data.labels": None, "fairseq.utils": None}
    text = """
def f():
    from ..models.wav2vec import wav2vec2
    from fairseq import utils
    importlib.import_module('fairseq.trainer')
"""
    found = [target for target, _ in imports_of(ast.parse(text), "fairseq.data.labels", False, known)]
    assert found == ["fairseq.models.wav2vec.wav2vec2", "fairseq.utils", "fairseq.trainer"]
    assert [breaks_floors("fairseq.data.labels", target) for target in found] == [True, False, True]
    assert breaks_floors("fairseq.models.fairseq_model", "fairseq.criterions.wav2vec_criterion")
    assert not breaks_floors("fairseq.trainer", "fairseq.training.ema") and breaks_floors(
        "fairseq.training.ema", "fairseq.trainer"
    )


# -- sizes and habits --------------------------------------------------------------------------------------------------


def test_sizes() -> None:
    offenders = []
    for module, path in MODULES.items():
        lines = path.read_text(encoding="utf-8").count("\n")
        offenders += [f"{module}: {lines} lines, more than {MAX_LINES}"] if lines > MAX_LINES else []
        offenders += too_long(trees()[module], module)
    assert not offenders, listed(offenders)


def too_long(tree: ast.AST, module: str) -> list[str]:
    """Functions of more than MAX_FUNCTION_LINES lines."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = [(f, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions]
    return [
        f"{module}:{f.lineno} {f.name}: {length} lines, more than {MAX_FUNCTION_LINES}"
        for f, length in lengths
        if length > MAX_FUNCTION_LINES
    ]


def test_size_check_sees_what_it_must() -> None:
    text = "def short():\n    pass\ndef long():\n" + "    pass\n" * MAX_FUNCTION_LINES
    assert too_long(ast.parse(text), "m") == ["m:3 long: 101 lines, more than 100"]


def test_bare_any_does_not_spread() -> None:
    """A Protocol, `object` or a type variable says more; see `python scripts/count_any.py`."""
    found: Counter[str] = Counter({module: count_any.of(tree)["bare"] for module, tree in trees().items()})
    most = [f"{module}: {number}" for module, number in found.most_common(10)]
    assert found.total() <= MAX_BARE_ANY, listed([f"{found.total()}, more than {MAX_BARE_ANY}; the most:", *most])


def test_any_count_sees_what_it_must() -> None:
    text = "def f(a: Any, *b: Any, c: list[Any] = [], **d: Any) -> typing.Any:\n    e: int | Any = 1"
    assert count_any.of(ast.parse(text)) == {"bare": 2, "inside": 2}


def bad_habits(tree: ast.AST, in_device_layer: bool) -> list[str]:
    """Lines with what the house rules forbid."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{node.lineno}: bare except")
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not in_device_layer:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any(name.split(".")[0] == "habana_frameworks" for name in names):
                found.append(f"{node.lineno}: habana_frameworks outside fairseq/device")
        if isinstance(node, ast.Call):
            found += bad_call(node)
    return found


def bad_call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    if name in ("eval", "exec"):
        return [f"{node.lineno}: {name} of text"]
    if (
        name == "getattr"
        and len(node.args) == 3
        and any(word in ast.unparse(node.args[0]) for word in ("cfg", "config", "args"))
    ):
        return [f"{node.lineno}: a default outside the dataclass: {ast.unparse(node)}"]
    if name == "torch.load":
        safe = [
            k
            for k in node.keywords
            if k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True
        ]
        return [] if safe else [f"{node.lineno}: torch.load without weights_only=True"]
    if name in ("pickle.load", "pickle.loads"):
        return [f"{node.lineno}: free unpickling"]
    return []


def test_habits() -> None:
    offenders = [
        f"{module}:{habit}"
        for module, tree in trees().items()
        for habit in bad_habits(tree, unit_of(module) == "fairseq.device")
    ]
    assert not offenders, listed(offenders)


def test_habit_check_sees_what_it_must() -> None:
    text = """
try:
    eval(x)
except:
    getattr(self.cfg, "seed", 1)
    torch.load(path)
    torch.load(path, weights_only=True)
from habana_frameworks.torch import hpu
"""
    found = bad_habits(ast.parse(text), in_device_layer=False)
    assert len(found) == 5, found
    assert len(bad_habits(ast.parse(text), in_device_layer=True)) == 4
