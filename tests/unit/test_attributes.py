"""What a module of the collection uses of another one is there. mypy does not follow imports of ansible_collections."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
PREFIX = "ansible_collections.clinicops.orthanc.plugins"
FILES = [path for path in sorted(PLUGINS.rglob("*.py")) if PREFIX in path.read_text(encoding="utf-8")]


def list_modules(tree: ast.Module) -> Iterator[tuple[str, ModuleType]]:
    """The modules of the collection that a file imports whole, by their names there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PREFIX):
            package = importlib.import_module(str(node.module))
            for one in node.names:
                if not hasattr(package, one.name) or isinstance(getattr(package, one.name), ModuleType):
                    yield one.asname or one.name, importlib.import_module(f"{node.module}.{one.name}")


def list_bound(tree: ast.Module) -> set[str]:
    """The names of arguments and of variables, which may hide that of a module."""
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return arguments | {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PLUGINS).as_posix())
def test_what_is_used_of_another_module_is_there(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules, bound = dict(list_modules(tree)), list_bound(tree)
    missing = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in modules.keys() - bound and not hasattr(modules[node.value.id], node.attr)
    }
    assert missing == set()


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 30
