# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_configuration_problems
short_description: List the problems in the configuration of any Orthanc
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Checks a whole configuration, also one written by hand, against the options of its version and the rules of this
    collection.
options:
  _input:
    description: The text of each file, by its name. Comments and trailing commas are ignored, as Orthanc does.
    type: dict
    required: true
  version:
    description: The version of Orthanc that reads the files; empty means the newest known version.
    type: str
    required: true
  waivers:
    description: Rules that are broken on purpose, each with its reason.
    type: dict
    default: {}
  environment:
    description:
      - The variables of Orthanc's environment, with which it replaces C(${NAME}).
      - If omitted, values that come from the environment are listed and not checked.
    type: dict
  plugins:
    description: File names of the plugins in Orthanc's plugin directories; they determine the worklist plugin.
    type: list
    elements: str
    default: []
  image:
    description: Whether the entry point of orthancteam/orthanc generates it from files, environment and secrets.
    type: bool
    default: false
  bridge:
    description: Whether Orthanc runs in a container's own network, in which it sees the proxy as another machine.
    type: bool
    default: false
positional: version, waivers, bridge, environment, plugins, image
"""

EXAMPLES = r"""
- name: List the problems in a configuration file
  ansible.builtin.debug:
    msg: "{{ {'orthanc.json': text} | clinicops.orthanc.orthanc_configuration_problems('1.12.7') }}"
"""

RETURN = r"""
_value:
  description: C(rule), C(severity), C(path), C(message) and C(remedy) of each problem; empty when there is none.
  type: list
"""

import posixpath
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.clinicops.orthanc.plugins.module_utils.present import PLUGINS
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import image as images
from ansible_collections.clinicops.orthanc.plugins.plugin_utils import reading, rules
from ansible_collections.clinicops.orthanc.plugins.plugin_utils.problem import missing_library

# The file of each worklist plugin.
WORKLISTS = {"ModalityWorklists": "worklists", "OrthancWorklists": "orthanc-worklists"}


def may_authorize(listed: Any, plugins: Any) -> bool:
    """Whether one of the files and folders in `listed`, Orthanc's option, may be or contain the Authorization plugin;
    `plugins` are the files in the usual folders, or empty if they cannot be read."""
    for path in listed if isinstance(listed, list) else [listed] if listed else []:
        if reading.is_unknown(path) or "Authorization" in str(path):
            return True
        seen = bool(plugins) and posixpath.normpath(str(path)) in PLUGINS
        if not str(path).endswith(".so") and (not seen or "Authorization" in str(plugins)):
            return True
    return False


def orthanc_configuration_problems(
    value: Any,
    version: Any,
    waivers: Any = None,
    bridge: bool = False,
    environment: Any = None,
    plugins: Any = (),
    image: bool = False,
) -> Any:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise AnsibleFilterError(
            "clinicops.orthanc.orthanc_configuration_problems: expects a dictionary of text by file name"
        )
    if image:
        configuration, wrong = images.read(value, environment or {}, rules.release(version))
    else:
        configuration, wrong = reading.read(value, environment)
    if any(item["rule"] == "bad_json" for item in wrong):
        return wrong  # if a part cannot be read, its options would be mistaken for Orthanc's defaults
    listed = f"{configuration.get('Plugins')} {plugins}"
    named = {plugin for file, plugin in WORKLISTS.items() if file in listed}
    try:
        found = rules.problems(
            configuration,
            str(version),
            # a folder that cannot be read may contain either plugin
            named.pop() if len(named) == 1 else "",
            authorized=image or may_authorize(configuration.get("Plugins"), plugins),
            directory="" if image else posixpath.dirname(next(iter(value), "")),
        )
    except ImportError as error:
        return [missing_library(error)]
    if bridge:
        found = [item for item in found if item["rule"] != "remote_access"]
    return rules.waive([*wrong, *found], waivers or {})


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"orthanc_configuration_problems": orthanc_configuration_problems}
