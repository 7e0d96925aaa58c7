# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which options of Orthanc differ between two releases, from the schema (orthanc_schema.json). Without Ansible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ansible_collections.clinicops.orthanc.plugins.plugin_utils import rules

Version = tuple[int, ...]


class Option(NamedTuple):
    """An option by its whole name, its entry in the schema, and both releases of what reads it."""

    name: str
    entry: dict[str, Any]
    before: Version
    after: Version

    def came(self, moment: str) -> bool:
        """Whether this release is after the one, and not after the other."""
        return bool(self.before < rules.release(moment) <= self.after)

    @property
    def is_new(self) -> bool:
        """Whether the later release reads it and the earlier does not; another name of an old option does not count."""
        return self.came(self.entry.get("x-since", "0")) and "x-renamed" not in self.entry


def list_options(before: str, after: str) -> Iterator[Option]:
    """Every option that has a release, of Orthanc, of a device and of the DICOMweb plugin."""
    releases = rules.release(before), rules.release(after)
    top, devices = rules.SCHEMA["properties"], rules.SCHEMA["$defs"]["Modality"]["else"]["properties"]
    parts = [("", top, releases), ("DicomModalities.", devices, releases)]
    plugins = rules.find_dicomweb(releases[0]), rules.find_dicomweb(releases[1])
    parts.append(("DicomWeb.", top["DicomWeb"]["properties"], plugins))
    for prefix, entries, (old, new) in parts:
        for name, entry in entries.items():
            yield Option(f"{prefix}{name}", entry, old, new)


def is_set(configuration: dict[str, Any], name: str) -> bool:
    """Whether a configuration sets the option."""
    section, _dot, option = name.rpartition(".")
    return option in (configuration.get(section) or {} if section else configuration)


def list_changes(configuration: dict[str, Any], before: str, after: str) -> list[str]:
    """What a clinic with this orthanc.json should know before it changes the release, in sentences.

    The schema does not know options that went, nor defaults that differ between releases."""
    if not before:
        return ["It is not known which release runs, and so not which options change."]
    if rules.release(before) == rules.release(after):
        return [f"Orthanc {after} as before: no option of Orthanc's changes."]
    options = list(list_options(before, after))
    said = []
    if new := [one for one in options if one.is_new]:
        names = ", ".join(describe(one, configuration) for one in new)
        said.append(f"Options that came since {before}, with their defaults: {names}.")
    since = {one.name: one for one in options}
    for name in configuration:
        entry = since[name].entry if name in since else {}
        if (today := entry.get("x-renamed")) and since[today].is_new:
            said.append(f"orthanc_config_settings.{name} has another name in {after}. Remedy: write {today}.")
        if any(since[name].came(moment) for moment in entry.get("x-before", {})):
            said.append(f"orthanc_config_settings.{name} takes other values in {after} (docs/configuration.md).")
    return said or [f"No option of Orthanc's came between {before} and {after}."]


def describe(option: Option, configuration: dict[str, Any]) -> str:
    """Its name, and its default or that it is set; never its value, which may be a secret."""
    if is_set(configuration, option.name):
        return f"{option.name} (set)"
    default = option.entry.get("default")
    return option.name if default is None or isinstance(default, dict) else f"{option.name} {json.dumps(default)}"
