"""The rules of the server's package: who may import whom, where programs lie, the oldest Python, no job twice."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "plugins" / "module_utils" / "server"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
# the rows of the house; the rooms of the commands are beside each other, above these
ROWS = {"core": 0, "orthanc": 1, "dicom": 2}
COMMANDS = 3
OLDEST = (3, 10)


def find_rooms(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each room that a module of the package imports from, with the line. `name` is its path in the package."""
    parents = Path(name).parts[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = ["server", *parents][: len(parents) + 2 - node.level]
            found = [*base, *(node.module or "").split(".")] if node.module else base
        else:
            found = (node.module or "").split(".")
        if found[:1] == ["server"]:
            yield from ((node.lineno, room) for room in found[1:2] or [alias.name for alias in node.names])


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name: str) -> None:
    own, *below = Path(name).parts
    if not below:
        return  # the package's own, which imports nothing
    wrong = [
        f"line {line}: {room}"
        for line, room in find_rooms(name, TREES[name])
        if room != own and ROWS.get(room, COMMANDS) >= ROWS.get(own, COMMANDS)
    ]
    assert wrong == []


def test_an_import_upwards_is_seen() -> None:
    tree = ast.parse(
        "from ..monitor import rules\nfrom .. import verify\nfrom ..core import words\nfrom . import own\n"
    )
    assert [*find_rooms("backup/run.py", tree)] == [(1, "monitor"), (2, "verify"), (3, "core"), (4, "backup")]
    deeper = ast.parse("from ...core import words\nfrom ..context import Sample\nfrom . import disk\n")
    assert [*find_rooms("monitor/probes/log.py", deeper)] == [(1, "core"), (2, "monitor"), (3, "monitor")]


def test_no_import_goes_in_a_circle() -> None:
    """Of modules, at import: what a function imports when it is called may come later."""
    names = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in MODULES}
    edges: dict[str, set[str]] = {}
    for module, name in names.items():
        parents = Path(name).parts[:-1]
        edges[module] = set()
        for node in TREES[name].body:
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*parents[: len(parents) + 1 - node.level], *(node.module or "").split(".")]
                for target in ([*base, alias.name] for alias in node.names):
                    found = ".".join(part for part in target if part)
                    edges[module].add(found if found in names else found.rpartition(".")[0])
        edges[module] &= names.keys() - {module}
    while gone := [module for module, targets in edges.items() if not targets & edges.keys()]:
        for module in gone:
            del edges[module]
    assert sorted(edges) == []


DEBIANS = {"jinja2", "openpyxl", "pydicom"}  # python3-jinja2, python3-openpyxl, python3-pydicom


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_imported_that_debian_does_not_have(name: str) -> None:
    modules = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module or "")
    assert {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - DEBIANS == set()


# --- programs -----------------------------------------------------------------------------------
# what somebody else's program runs: Orthanc's plugin for Python, and the engine inside the image
GUESTS = {"orthanc_config/files/receive.py", "orthanc_config/files/search.py", "orthanc_install/files/health.py"}
PROGRAMS = sorted(path for kind in ("files", "templates") for path in (ROOT / "roles").glob(f"*/{kind}/**/*.py*"))


def count_lines(tree: ast.Module) -> int:
    """Lines of code: neither comments nor docstrings nor empty ones."""
    code = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in code)


def test_a_program_of_a_role_is_a_launcher() -> None:
    launchers = [path for path in PROGRAMS if path.relative_to(ROOT / "roles").as_posix() not in GUESTS]
    assert len(launchers) == 5
    long = {path.name: count_lines(ast.parse(path.read_text(encoding="utf-8"))) for path in launchers}
    assert {name: lines for name, lines in long.items() if lines > 8} == {}


# --- the oldest Python --------------------------------------------------------------------------
# by module: what came after Python 3.10
LATER = {
    "asyncio": {"Runner", "TaskGroup", "timeout"},
    "builtins": {"BaseExceptionGroup", "ExceptionGroup", "PythonFinalizationError"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"StrEnum", "ReprEnum", "EnumCheck", "global_enum", "member", "nonmember", "property", "verify"},
    "hashlib": {"file_digest"},
    "inspect": {"getmembers_static", "markcoroutinefunction"},
    "itertools": {"batched"},
    "logging": {"getLevelNamesMapping", "getHandlerByName", "getHandlerNames"},
    "math": {"cbrt", "exp2", "fma", "sumprod"},
    "operator": {"call", "is_none", "is_not_none"},
    "os": {"listdrives", "process_cpu_count", "unshare", "setns", "CLONE_NEWNET"},
    "re": {"NOFLAG"},
    "sys": {"exception", "activate_stack_trampoline", "monitoring"},
    "types": {"get_original_bases", "CapsuleType"},
    "typing": {
        *("LiteralString", "Never", "NotRequired", "Required", "Self", "TypeAliasType", "TypeIs", "TypeVarTuple"),
        *("Unpack", "assert_never", "assert_type", "clear_overloads", "dataclass_transform", "get_overloads"),
        *("override", "reveal_type", "ReadOnly", "NoDefault", "get_protocol_members", "is_protocol"),
    },
    "warnings": {"deprecated"},
}
LATER_MODULES = {"tomllib", "compression", "annotationlib", "string.templatelib", "concurrent.interpreters"}
LATER_METHODS = {"add_note", "walk_up", "full_match", "from_uri", "move_into", "copy_into"}
LATER_ARGUMENTS = {
    "catch_warnings": {"action"},
    "TemporaryDirectory": {"delete"},
    "NamedTemporaryFile": {"delete_on_close"},
    "rmtree": {"onexc"},
    "create_connection": {"all_errors"},
    "glob": {"include_hidden", "case_sensitive", "recurse_symlinks"},
    "rglob": {"case_sensitive", "recurse_symlinks"},
    "exists": {"follow_symlinks"},
    "is_file": {"follow_symlinks"},
    "is_dir": {"follow_symlinks"},
    "relative_to": {"walk_up"},
    "dataclass": {"weakref_slot"},
    "connect": {"autocommit"},
}
# of regular expressions: atomic groups and possessive quantifiers
LATER_PATTERN = re.compile(r"\(\?>|(?<!\\)[*+?}]\+")


def find_later(source: str) -> Iterator[str]:
    """Line and name of what the source uses, and Python 3.10 has not. SyntaxError for what it cannot parse."""
    tree = ast.parse(source, feature_version=OLDEST)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"{node.lineno}: {one.name}" for one in node.names if one.name in LATER_MODULES)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            later = LATER.get(node.module or "", set())
            gone = node.module in LATER_MODULES
            yield from (f"{node.lineno}: {node.module}.{one.name}" for one in node.names if gone or one.name in later)
        elif isinstance(node, ast.Attribute):
            module = ast.unparse(node.value)
            if node.attr in LATER.get(module, set()) | LATER_METHODS:
                yield f"{node.lineno}: {module}.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in LATER["builtins"]:
            yield f"{node.lineno}: {node.id}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            given = {one.arg for one in node.keywords if one.arg} & LATER_ARGUMENTS.get(name, set())
            yield from (f"{node.lineno}: {name}({one}=)" for one in sorted(given))
            first = node.args[0] if node.args else None
            pattern = first.value if isinstance(first, ast.Constant) else ""
            if ast.unparse(node.func).startswith("re.") and LATER_PATTERN.search(str(pattern)):
                yield f"{node.lineno}: a regular expression"


@pytest.mark.parametrize("name", MODULES)
def test_the_oldest_python_can_run_it(name: str) -> None:
    assert [*find_later(MODULES[name].read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_the_oldest_python_can_run_a_launcher(path: Path) -> None:
    assert [*find_later(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import tomllib",
        "from datetime import UTC",
        "import datetime\ndatetime.UTC",
        "from typing import Self",
        "import enum\nclass Colour(enum.StrEnum): pass",
        "import hashlib\nhashlib.file_digest(open('a'), 'md5')",
        "raise ExceptionGroup('a', [])",
        "import warnings\nwarnings.catch_warnings(action='ignore')",
        "import shutil\nshutil.rmtree('a', onexc=print)",
        "import re\nre.match('a++', 'a')",
        "error.add_note('a')",
    ],
)
def test_what_came_later_is_seen(source: str) -> None:
    assert len([*find_later(source)]) == 1


@pytest.mark.parametrize("source", ["try: pass\nexcept* OSError: pass", "type A = int", "def f[T](a: T): pass"])
def test_later_syntax_is_seen(source: str) -> None:
    with pytest.raises(SyntaxError):
        [*find_later(source)]


# --- one job is written once --------------------------------------------------------------------
# by job: what tells it in a source, where it is written, and who has a reason for another way
ONCE: dict[str, tuple[str, str, dict[str, str]]] = {
    "a program is run without a terminal": (
        r"subprocess\.(run|Popen|call|check_output)\(",
        "server/core/process.py",
        {
            "server/core/journal.py": "logger gets what cannot be said otherwise",
            "server/backup/restic.py": "its output is read while it runs, in a session of its own",
            "server/backup/ssh.py": "in a session of its own, since ssh asks its terminal",
            "server/backup/restored_orthanc.py": "it runs beside the program",
            "server/monitor/notify.py": "sendmail takes bytes, in a session of its own",
            "server/monitor/probes/proxy.py": "a certificate is bytes",
            "service.py": "the trial runs beside the module",
            "present.py": "docker cp gives bytes",
        },
    ),
    "the administrator is found": (
        r"== [\"']admin[\"']",
        "server/orthanc/api.py",
        {"server/verify/acceptance.py": "it plays every user that it has a password of"},
    ),
    "REST on this machine": (
        r"HTTPS?Connection\(",
        "server/orthanc/api.py",
        {
            "server/dicom/web.py": "as any user, through the proxy as well",
            "server/verify/sending.py": "to another machine",
            "submission.py": "to an Orthanc that somebody set up with TLS of its own",
        },
    ),
    "a file is written whole": (
        r"os\.fsync\(|os\.replace\(|mkstemp\(prefix=",
        "server/core/files.py",
        {},
    ),
    "a lock is held": (r"fcntl\.(flock|lockf)\(", "server/core/locks.py", {}),
    "a signal ends a command": (
        r"signal\.signal\(",
        "server/core/cli.py",
        {
            "server/worklist/item.py": "an alarm ends a file that takes too long",
            "server/worklist/intake.py": "a lease is broken",
            "signals.py": "a module of Ansible's is not a command",
        },
    ),
    "options that all commands have": (r"argparse\.ArgumentParser\(", "server/core/cli.py", {}),
    "a line of the journal": (r"[\"']INVOCATION_ID[\"'] (not )?in", "server/core/journal.py", {}),
    "what is wrong, with an exit code": (r"class (Refused|Busy|Misused|Interrupted)\b", "server/core/errors.py", {}),
    "the backup's state files": (r"Path\([\"']/var/lib/orthanc-backup[\"']\)", "server/core/settings.py", {}),
    "a file of a deploy is read": (r"cannot be read\. Remedy: run the command as root", "server/core/settings.py", {}),
    "shared facts": (r"/etc/clinicops-orthanc\.json", "server/core/settings.py", {}),
    "how Orthanc runs": (
        r"NRestarts|\.RestartCount",
        "server/orthanc/runtime.py",
        {"server/backup/exchange.py": "whether it is still on its way up"},
    ),
    "Orthanc's log": (
        r"[\"']journalctl[\"'],|[\"']docker[\"'], [\"']logs[\"']",
        "server/orthanc/runtime.py",
        {
            "server/monitor/probes/log.py": "each line once, from a cursor",
            "server/verify/doctor.py": "the kernel's log, for the firewall",
        },
    ),
    "rejected devices out of the log": (r"Rejected association for", "server/orthanc/log.py", {}),
    "text from outside": (r"unicodedata\.category\(letter\) (not )?in", "server/core/escaping.py", {}),
    "sizes in words": (r"\"kB\"|'kB'", "server/core/words.py", {}),
}
SHARED = {
    path.relative_to(PACKAGE.parent).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.parent.rglob("*.py"))
}


def find_places(sign: str) -> set[str]:
    """The modules in which a job is written."""
    return {name for name, text in SHARED.items() if re.search(sign, text)}


@pytest.mark.parametrize("job", ONCE)
def test_one_job_is_written_once(job: str) -> None:
    sign, home, others = ONCE[job]
    assert find_places(sign) == {home, *others}
