#!/usr/bin/env python3
"""Writes the tables of systems into docs/systems.md and README.md: `make docs`.

The systems and their Orthanc are in plugins/plugin_utils/systems.yml. What was tested on each comes from the scenarios
themselves: the images of their machines in molecule/*/molecule.yml, and the method that their inventories set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bed
import yaml
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- systems: make docs -->\n", "<!-- end of systems -->\n"
METHODS = {"package": "package", "docker": "container"}


class Run(NamedTuple):
    """A machine of a scenario: the system that it is or resembles, whether it is that system, and the method."""

    scenario: str
    name: str
    version: str
    real: bool
    method: str


def read_yaml(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    return content


def describe_image(image: str) -> tuple[str, str, bool]:
    """Name and version of the system of one of the bed's images, and whether it is that system."""
    if image in bed.UBUNTU:
        return "Ubuntu", bed.UBUNTU[image][1], False
    image = bed.UML.get(image, image)
    base = bed.READY.get(image, (image,))[0]
    return "Debian", base.removeprefix("debian"), True


def list_runs() -> Iterator[Run]:
    """Every machine that a scenario deploys to, with each method that its inventory sets."""
    for path in sorted(ROOT.glob("molecule/*/molecule.yml")):
        scenario = read_yaml(path)
        links = scenario.get("provisioner", {}).get("inventory", {}).get("links", {})
        common = "docker" if "docker_clinic" in links.get("group_vars", "") else "package"
        hosts: dict[str, Any] = {}
        for link in links.values():
            if link.endswith(".yml"):
                hosts |= read_yaml(path.parent / link).get("orthanc", {}).get("hosts") or {}
        for machine in scenario["platforms"]:
            if machine["groups"] == ["orthanc"]:
                method = (hosts.get(machine["name"]) or {}).get("orthanc_install_method", common)
                yield Run(path.parent.name, *describe_image(machine["image"]), method)


def say_tested(runs: list[Run]) -> str:
    """How a system and method was tested, by the machines of the scenarios."""
    if not runs:
        return "by table"
    word = "tested"
    if not runs[0].real:
        word = "as Ubuntu as could be had"
        if runs[0].method == "package":
            word += ", with the Orthanc of Debian 13"
    return f"{word}: {', '.join(sorted({run.scenario for run in runs}))}"


def write_matrix() -> str:
    """System, method, Orthanc, and how that was tested."""
    rows = ["| system | method | Orthanc | DICOMweb plugin | how it was tested |", "| --- | --- | --- | --- | --- |"]
    every = list(list_runs())
    for system in SYSTEMS:
        for method, word in METHODS.items():
            runs = [one for one in every if one[1:3] == (system.name, system.version) and one.method == method]
            orthanc, plugin = (
                (system.orthanc, system.dicomweb) if method == "package" else ("the image's", "the image's")
            )
            cells = (f"{system.name} {system.version}", word, orthanc, plugin, say_tested(runs))
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, ""])


def write_overview() -> str:
    """The table of the README."""
    rows = ["| system | Orthanc | DICOMweb plugin |", "| --- | --- | --- |"]
    rows += [f"| {one.name} {one.version} | {one.orthanc} | {one.dicomweb} |" for one in SYSTEMS]
    rows.append("| any, [in a container](docs/docker.md) | that of the image, for example 1.13.0 | that of the image |")
    return "\n".join([*rows, ""])


def replace_table(text: str, table: str) -> str:
    """The page with the table between its two markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write_all() -> dict[Path, str]:
    """Each page with its table."""
    pages = {ROOT / "docs/systems.md": write_matrix(), ROOT / "README.md": write_overview()}
    return {path: replace_table(path.read_text(), table) for path, table in pages.items()}


def main() -> None:
    for path, text in write_all().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
