#!/usr/bin/env python3
"""Builds the collection as Galaxy gets it and judges what was built: `make release-check`.

The steps, each of which is done whatever became of the others:

files      the artifact holds every file that it should, and no other
importer   galaxy-importer, as Galaxy runs it: no error and no warning
docs       antsibull-docs lint-collection-docs, with the documentation of every plugin and role
changelog  antsibull-changelog lint, and CHANGELOG.md is what changelogs/changelog.yaml says
sanity     ansible-test sanity, which fetches its own requirements the first time

The exit code is 0 if all passed, 1 if one failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The product. What is not listed here is for working on the collection, and build_ignore in galaxy.yml names it.
SHIPPED_DIRECTORIES = ("changelogs", "docs", "inventories", "meta", "playbooks", "plugins", "roles")
SHIPPED_FILES = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"),
    *("requirements.txt", "requirements.yml"),
)
MADE_BY_THE_BUILD = ("FILES.json", "MANIFEST.json")
# what galaxy-importer says beside its progress
FINDING = re.compile(r"(WARNING|ERROR|CRITICAL): ")
# ansible-test fetches pip from Ansible's own server. Where it cannot reach that it names the file that should be there,
# and this in its place takes pip from the package index.
MISSING_BOOTSTRAP = "manually downloaded and saved to: "
BOOTSTRAP = """\
import subprocess, sys
subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"])
subprocess.check_call([sys.executable, "-m", "pip", "install", *[one for one in sys.argv if one.startswith("pip==")]])
"""


def list_expected_files(root: Path = ROOT) -> set[str]:
    """The paths of what the artifact should hold: the product's files that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {name for name in listed.split("\0") if name and (root / name).is_file()}
    return {
        name for name in names if name in SHIPPED_FILES or name.startswith(tuple(f"{d}/" for d in SHIPPED_DIRECTORIES))
    }


def build_artifact(directory: Path, root: Path = ROOT) -> Path:
    """Builds the collection into a directory that is empty; returns the tarball's path."""
    subprocess.run(
        ["ansible-galaxy", "collection", "build", "--output-path", str(directory), str(root)],
        check=True,
        capture_output=True,
    )
    return next(directory.glob("*.tar.gz"))


def list_files_of_artifact(artifact: Path) -> set[str]:
    """The paths of the files in a tarball, without those that the build adds."""
    with tarfile.open(artifact) as opened:
        return {member.name for member in opened.getmembers() if member.isfile()} - set(MADE_BY_THE_BUILD)


def find_differences(expected: set[str], found: set[str]) -> list[str]:
    """A sentence for each file that the artifact lacks, or holds beyond what it should."""
    lacking = [f"{name} is not in the artifact. Remedy: see build_ignore in galaxy.yml." for name in expected - found]
    beyond = [
        f"{name} should not be in the artifact. Remedy: add it to build_ignore in galaxy.yml."
        for name in found - expected
    ]
    return sorted([*lacking, *beyond])


def run_tool(*command: str, cwd: Path = ROOT, **environment: str) -> tuple[int, list[str]]:
    """The exit code and the lines of both outputs of a program that has no terminal."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()


# --- the steps: each returns its findings ----------------------------------------------------------
def check_files(artifact: Path, _scratch: Path) -> list[str]:
    return find_differences(list_expected_files(), list_files_of_artifact(artifact))


def check_importer(artifact: Path, scratch: Path) -> list[str]:
    status, lines = run_tool(sys.executable, "-m", "galaxy_importer.main", str(artifact), cwd=scratch)
    findings = [line for line in lines if FINDING.match(line)]
    return findings or (lines[-5:] if status else [])


def check_docs(artifact: Path, scratch: Path) -> list[str]:
    collection = unpack(artifact, scratch)
    # all collections that are there, which in this environment are Ansible's own and this one
    status, lines = run_tool(
        *("antsibull-docs", "lint-collection-docs", "--plugin-docs"),
        *("--validate-collection-refs", "all", "--disallow-unknown-collection-refs", "."),
        cwd=collection,
    )
    return lines or ([f"exit code {status}"] if status else [])


def check_changelog(_artifact: Path, scratch: Path) -> list[str]:
    status, findings = run_tool("antsibull-changelog", "lint")
    if status:
        return findings
    # a copy, since the program writes in place
    copy = scratch / "changelog"
    copy.mkdir()
    for name in ("galaxy.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "changelogs", copy / "changelogs")
    status, lines = run_tool("antsibull-changelog", "generate", cwd=copy)
    if status:
        return lines
    if (copy / "CHANGELOG.md").read_text() != (ROOT / "CHANGELOG.md").read_text():
        return ["CHANGELOG.md is not what changelogs/changelog.yaml says. Remedy: make changelog."]
    return []


def check_sanity(artifact: Path, scratch: Path) -> list[str]:
    collection = unpack(artifact, scratch)
    # what it reads of the tests: the oldest Python, and its own lists of what is ignored, which are empty
    for name in ("tests/config.yml", "tests/sanity"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, collection / name, dirs_exist_ok=True)
        elif (ROOT / name).exists():
            (collection / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, collection / name)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = ("ansible-test", "sanity", "--color", "no", "--python", python)
    status, lines = run_tool(*command, cwd=collection)
    if missing := [line.partition(MISSING_BOOTSTRAP)[2] for line in lines if MISSING_BOOTSTRAP in line]:
        Path(missing[0]).write_text(BOOTSTRAP)
        status, lines = run_tool(*command, cwd=collection)
    findings = [line for line in lines if line.startswith(("ERROR:", "FATAL:"))]
    return findings or (lines[-20:] if status else [])


def unpack(artifact: Path, scratch: Path) -> Path:
    """The collection's directory in a tree of collections, unpacked from its artifact."""
    collection = scratch / "ansible_collections" / "clinicops" / "orthanc"
    if not collection.exists():
        collection.mkdir(parents=True)
        shutil.unpack_archive(artifact, collection)  # tarfile's own filters are missing in Debian 12's Python
    return collection


STEPS: dict[str, Callable[[Path, Path], list[str]]] = {
    "files": check_files,
    "importer": check_importer,
    "docs": check_docs,
    "changelog": check_changelog,
    "sanity": check_sanity,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="step", help=f"some of {', '.join(STEPS)}; all of them without")
    chosen = parser.parse_args()
    names = chosen.steps or list(STEPS)
    if unknown := sorted(set(names) - set(STEPS)):
        parser.error(f"{', '.join(unknown)}: use some of {', '.join(STEPS)}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="release-check-") as directory:
        scratch = Path(directory)
        (scratch / "built").mkdir()
        artifact = build_artifact(scratch / "built")
        for name in names:
            findings = STEPS[name](artifact, scratch)
            failed += bool(findings)
            print(f"{name}: {'failed' if findings else 'passed'}", *findings, sep="\n  ", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
