"""Count annotations that are `Any` or contain it (`list[Any]`, `dict[str, Any]`).

    python scripts/count_any.py [folder ...]

Prints for each folder the number of annotations that are exactly `Any`, and of those that only contain it.
`*args: Any` and `**kwargs: Any` are not counted: these values are only passed on.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fairseq", "fairseq_cli", "hydra_plugins")


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """Every annotation of a parameter, a return value, a variable or an attribute, in any order."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield from (argument.annotation for argument in arguments if argument.annotation is not None)
            if node.returns is not None:
                yield node.returns
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation


def is_any(node: ast.AST) -> bool:
    return ast.unparse(node) in ("Any", "typing.Any") if isinstance(node, (ast.Name, ast.Attribute)) else False


def of(tree: ast.AST) -> Counter[str]:
    """Counts for one file, under `bare` and `inside`."""
    found: Counter[str] = Counter()
    for annotation in annotations(tree):
        if is_any(annotation):
            found["bare"] += 1
        elif any(is_any(part) for part in ast.walk(annotation)):
            found["inside"] += 1
    return found


def by_folder(folders: tuple[str, ...] = FOLDERS) -> dict[str, Counter[str]]:
    """Counts per folder, and per folder directly in `fairseq`."""
    totals: dict[str, Counter[str]] = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).parts[:-1]
            if parts[:2] != ("fairseq", "examples"):  # a link to examples/
                totals.setdefault("/".join(parts[:2]), Counter()).update(
                    of(ast.parse(path.read_text(encoding="utf-8")))
                )
    return totals


def main(folders: list[str]) -> None:
    totals = by_folder(tuple(folders) or FOLDERS)
    for name, found in totals.items():
        print(f"{name:32}{found['bare']:6} bare{found['inside']:6} inside")
    total = sum(totals.values(), Counter())
    print(f"{'total':32}{total['bare']:6} bare{total['inside']:6} inside")


if __name__ == "__main__":
    main(sys.argv[1:])
