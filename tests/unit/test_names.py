"""Functions of the server's programs: verbs that say what they do, explained where another file calls them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "plugins" / "module_utils" / "server"
ROOMS = ["backup", "core", "dicom", "monitor", "orthanc", "verify", "worklist"]
# those that do not end as others do; "read", "put", "set" and "cut" are verbs as well
PARTICIPLES = {
    *("begun", "brought", "built", "chosen", "done", "drawn", "driven", "found", "given", "gone", "held", "hidden"),
    *("kept", "known", "left", "lost", "made", "met", "paid", "said", "seen", "sent", "shown", "stood", "taken"),
    *("thought", "told", "written"),
}


def parse_room(room: str) -> dict[str, ast.Module]:
    """The modules of a room by their paths."""
    paths = sorted((PACKAGE / room).rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def find_functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
    """Every function, but for properties, which are values."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and "property" not in map(ast.unparse, node.decorator_list):
            yield node


def is_participle(name: str) -> bool:
    """Whether a name is one alone, and not a verb with its object."""
    word = name.strip("_")
    return "_" not in word and (word in PARTICIPLES or word.endswith(("ed", "ing")))


@pytest.mark.parametrize("part", ["plugins", "roles", "tools", "bench"])
def test_no_function_is_named_by_a_lone_participle(part: str) -> None:
    paths = [path for path in (ROOT / part).rglob("*.py") if not path.is_symlink()]
    assert len(paths) > 2
    found = [
        f"{path.relative_to(ROOT)}: {one.name}"
        for path in paths
        for one in find_functions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert [one for one in found if is_participle(one.rpartition(" ")[2])] == []


@pytest.mark.parametrize("room", ROOMS)
def test_what_another_file_calls_is_explained(room: str) -> None:
    modules = parse_room(room)
    imported = {
        (node.module.rpartition(".")[2], alias.name)
        for module in modules.values()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    bare = [
        f"{path}: {one.name}"
        for path, module in modules.items()
        for one in module.body
        if isinstance(one, (ast.FunctionDef, ast.ClassDef))
        and (Path(path).stem, one.name) in imported
        and not ast.get_docstring(one)
    ]
    assert bare == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_s_modules_import_each_other_in_one_direction(room: str) -> None:
    names = {Path(path).stem for path in parse_room(room)}
    imports = {
        Path(path).stem: {
            name
            for node in module.body
            if isinstance(node, ast.ImportFrom) and node.level == 1
            for name in ([node.module] if node.module else [alias.name for alias in node.names])
            if name in names
        }
        for path, module in parse_room(room).items()
        if path.count("/") == 1
    }
    while free := {name for name, below in imports.items() if not below & imports.keys()}:
        imports = {name: below for name, below in imports.items() if name not in free}
    assert imports == {}


def test_participles_are_found() -> None:
    assert [one for one in ("made", "_told", "tended", "standing", "read", "mark_unproven") if is_participle(one)] == [
        *("made", "_told", "tended", "standing")
    ]
