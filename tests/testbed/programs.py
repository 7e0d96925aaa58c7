"""The programs that stay on a server, as modules: their files have no place where Python would find them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def program(role: str) -> Any:
    """The program of a role, of the role's name."""
    path = Path(__file__).resolve().parents[2] / "roles" / role / "files" / f"{role}.py"
    spec = importlib.util.spec_from_file_location(role, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[role] = module  # a dataclass looks for its own there
    spec.loader.exec_module(module)
    return module
