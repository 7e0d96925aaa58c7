#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_distribution
short_description: Find out what the upgrade of a machine's distribution would do, and what is in its way
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Asks apt with the lists of the next release, which it downloads into a directory of their own and removes again.
  - It changes nothing. The upgrade itself is the administrator's, with the commands that are returned.
options:
  step:
    description:
      - V(plan) asks apt; it needs O(now).
      - V(options) compares O(content) with the machine's C(orthanc.json).
      - V(proof) reads when a backup was last proven.
    type: str
    choices: [plan, options, proof]
    required: true
  now:
    description: The system of this machine.
    type: dict
    suboptions: &system
      name:
        description: Name of the distribution, such as C(Debian).
        type: str
        required: true
      version:
        description: Its version, such as C(12).
        type: str
        required: true
      codename:
        description: The name that apt has for it, such as C(bookworm).
        type: str
        required: true
  next:
    description: The system that the upgrade leads to; without it only updates within the release are reported.
    type: dict
    suboptions: *system
  packages:
    description: Packages that a deploy installs.
    type: list
    elements: str
    default: []
  content:
    description: The content of C(orthanc.json) for the Orthanc of the next release.
    type: str
    default: ""
extends_documentation_fragment: clinicops.orthanc.reads
"""

EXAMPLES = r"""
- name: Find out what the upgrade of the distribution would do
  clinicops.orthanc.orthanc_distribution:
    step: plan
    now: {name: Debian, version: "12", codename: bookworm}
    next: {name: Debian, version: "13", codename: trixie}
    packages: [orthanc, orthanc-dicomweb, orthanc-python]
  become: true
  register: __orthanc_distribution
"""

RETURN = r"""
lines:
  description: What was found, in sentences.
  type: list
  elements: str
  returned: with O(step=plan) and O(step=options)
problems:
  description:
    - C(what), C(message) and C(remedy) of each reason why the upgrade must not begin; together they are one text.
    - C(rule) is the name of the waiver that permits it, or empty.
  type: list
  elements: dict
  returned: with O(step=plan)
commands:
  description: The commands of the upgrade, in their order.
  type: list
  elements: str
  returned: with O(step=plan)
orthanc:
  description: The release of Orthanc that would come, or empty.
  type: str
  returned: with O(step=plan)
proven:
  description: Whether a backup was proven within the last day.
  type: bool
  returned: with O(step=proof)
"""

import dataclasses
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import distribution
from ansible_collections.clinicops.orthanc.plugins.module_utils.distribution import Release
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused


def run_step(given: dict[str, Any]) -> dict[str, Any]:
    """The result of one step."""
    if given["step"] == "proof":
        return {"proven": distribution.is_proven(time.time())}
    if given["step"] == "options":
        return {"lines": [distribution.compare_options(given["content"])]}
    then = Release(**given["next"]) if given["next"] else None
    found = distribution.inspect(Release(**given["now"]), then, given["packages"])
    return {**dataclasses.asdict(found), "problems": [one._asdict() for one in found.problems]}


def main() -> None:
    system: dict[str, Any] = {name: {"type": "str", "required": True} for name in ("name", "version", "codename")}
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["plan", "options", "proof"], "required": True},
            "now": {"type": "dict", "options": system},
            "next": {"type": "dict", "options": system},
            "packages": {"type": "list", "elements": "str", "default": []},
            # secret as a whole, as in orthanc_configuration
            "content": {"type": "str", "default": "", "no_log": True},
        },
        required_if=[("step", "plan", ["now"]), ("step", "options", ["content"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run_step(module.params))
    except (Refused, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
