"""Python on a machine reads this as it starts. Ansible sends a module with its imports in a zip file for each task, and
Python compiles what it imports from one, which is half of the time of most modules. This keeps what was compiled, by
its source, until the machine starts again."""

# every program of the machine imports this: only what Python has loaded by then
import _imp
import marshal
import os
import sys
import zipimport
from types import CodeType

KEPT = f"/run/bed/{sys.implementation.cache_tag}"
importer = vars(zipimport)
compile_source = importer["_compile_source"]
name_file = vars(_imp)["_fix_co_filename"]


def compile_once(path: str, source: bytes) -> CodeType:
    file = f"{KEPT}-{_imp.source_hash(0, source).hex()}"
    try:
        with open(file, "rb") as kept:
            code: CodeType = marshal.load(kept)
        name_file(code, path)
    except (OSError, EOFError, ValueError, TypeError):
        code = compile_source(path, source)
        keep(code, file)
    return code


def keep(code: CodeType, file: str) -> None:
    """As root, who alone may write there."""
    part = f"{file}.{os.getpid()}"
    try:
        with open(part, "wb") as kept:
            marshal.dump(code, kept)
        os.rename(part, file)
    except OSError:
        return


importer["_compile_source"] = compile_once
