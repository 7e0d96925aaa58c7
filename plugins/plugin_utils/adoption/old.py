# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The configuration of an Orthanc that somebody set up, and where each of its options is written. Without Ansible."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import image as images
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import inventory, reading, rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import Problem, problem

Path = tuple[str, ...]  # the names on the way to an option
# Sections of plugins that keep the index or the images elsewhere than on this machine's disk.
ELSEWHERE = {
    **dict.fromkeys(("PostgreSQL", "MySQL", "Odbc"), "EnableIndex"),
    **dict.fromkeys(("AwsS3Storage", "AzureBlobStorage", "GoogleCloudStorage"), ""),
    "AdvancedStorage": "Enable",
}
DEFAULT_SOURCE = "the image's default"


@dataclasses.dataclass(frozen=True)
class Old:
    """The configuration that Orthanc reads today. `files` and `environment` are those of module orthanc_present."""

    configuration: dict[str, Any]
    files: dict[str, str]
    environment: dict[str, str] | None
    version: str
    image: bool
    bridge: bool
    container: str
    plugins: tuple[str, ...]
    problems: tuple[Problem, ...]

    @classmethod
    def of(cls, present: Mapping[str, Any]) -> Old:
        """What the module orthanc_present has found."""
        files, environment, version = present["files"], present["environment"], str(present["version"])
        if present["image"]:
            configuration, found = images.read(files, environment or {}, rules.release(version))
        else:
            configuration, found = reading.read(files, environment)
        return cls(
            inventory.distrust(configuration),
            files,
            environment,
            version,
            bool(present["image"]),
            bool(present["bridge"]),
            present["container"],
            tuple(posixpath.basename(path) for path in present["plugins"]),
            tuple(found),
        )

    def effective(self, name: str) -> Any:
        """The option's value today, or Orthanc's default."""
        if name == "AuthenticationEnabled" and name not in self.configuration:
            return self.effective("RemoteAccessAllowed")
        return self.configuration.get(name, rules.SCHEMA["properties"][name].get("default"))

    def section(self, name: str) -> dict[str, Any]:
        """A section of the configuration; empty if it is not there, or not a section."""
        found = self.configuration.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def directory(self) -> str:
        """The directory from which Orthanc resolves relative paths."""
        return "" if self.image else posixpath.dirname(next(iter(self.files), ""))

    def resolve(self, path: Any) -> str:
        """An absolute path, as Orthanc sees it; '' for what is not a path."""
        return posixpath.normpath(posixpath.join(self.directory, path)) if isinstance(path, str) and path else ""

    @property
    def storage_dir(self) -> str:
        return self.resolve(self.effective("StorageDirectory"))

    @property
    def index_dir(self) -> str:
        return self.resolve(self.configuration.get("IndexDirectory")) or self.storage_dir

    @property
    def worklist_dir(self) -> str:
        worklists = self.section("Worklists")
        return self.resolve(worklists.get("Directory") or worklists.get("Database")) if worklists.get("Enable") else ""

    @property
    def scripts(self) -> list[str]:
        listed = self.configuration.get("LuaScripts")
        return [self.resolve(path) for path in listed if path] if isinstance(listed, list) else []


def find_obstacles(old: Old) -> list[Problem]:
    """Why this Orthanc cannot be adopted: its configuration cannot be read, or its archive is not on the disk."""
    if not old.files and not old.image:
        remedy = "name the container with -e orthanc_adopt_container=NAME, if Orthanc is in one"
        return [problem("This machine", "has no configuration of an Orthanc", remedy)]
    found = [one for one in old.problems if one["rule"] in ("bad_json", "defined_twice")]
    for name, switch in ELSEWHERE.items():
        section = old.section(name)
        if section and (not switch or section.get(switch)):
            message = "keeps the archive outside this machine's disk or in another form, which a deploy cannot read"
            found.append(problem(name, message, "send the images to a newly deployed server over DICOM", "elsewhere"))
    return found


def list_leaves(configuration: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each value with the names on the way to it. A list is one value, and so is an empty section."""
    if isinstance(configuration, dict) and (configuration or not path):
        for name, value in configuration.items():
            yield from list_leaves(value, (*path, str(name)))
    else:
        yield path, configuration


def find_sources(old: Old) -> dict[Path, str]:
    """The file or variable that gives each option its value."""
    found: dict[Path, str] = {}
    for name, text in old.files.items():
        if name.endswith(".json"):
            section, _problems = reading.read({name: text}, old.environment)
            found |= dict.fromkeys((path for path, _value in list_leaves(section)), name)
    if not old.image:
        return found
    named = {tuple(images.path_of(name)): name for name in images.list_variables(old.environment or {})}
    for path, _value in list_leaves(old.configuration):
        for length in range(len(path), 0, -1):
            if path[:length] in named:
                found[path] = named[path[:length]]
                break
        found.setdefault(path, DEFAULT_SOURCE)
    return found
