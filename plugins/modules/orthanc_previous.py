#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_previous
short_description: Keep what a deploy may replace, and put it back
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - V(keep) copies settings, programs and units of a server that is deployed into C(/var/lib/orthanc-previous), which
    only root can read. What is kept already stays, since the deploy after which it was left did not come to its end.
  - V(back) puts them back, restarts what they concern, waits until Orthanc answers, and runs the acceptance test. It
    does not fail where that is not possible, but returns why.
  - V(forget) removes what was kept.
  - Images, index, worklists, backups, packages and accounts are never touched.
options:
  step:
    description: What to do.
    type: str
    choices: [keep, back, forget]
    required: true
  made:
    description: What each role makes, its C(units), and its paths in C(acting) and C(files). For V(keep).
    type: list
    elements: dict
    default: []
  plugins:
    description: Names of the plugins that must be loaded, as C(/plugins) lists them.
    type: list
    elements: str
    default: []
  address:
    description: The address from which Orthanc sees connections of this machine itself.
    type: str
    default: 127.0.0.1
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: none
  diff_mode:
    description: Has no diff.
    support: none
"""

EXAMPLES = r"""
- name: Put the configuration of before back
  clinicops.orthanc.orthanc_previous:
    step: back
    plugins: [dicom-web]
"""

RETURN = r"""
returned:
  description: Whether the server is as before.
  type: bool
  returned: success
short:
  description: The same in a few words, with the reason if it is not.
  type: str
  returned: success
said:
  description: The same in sentences, with what the acceptance test said.
  type: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import previous, signals
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import Refused, explain


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["keep", "back", "forget"], "required": True},
            "made": {"type": "list", "elements": "dict", "default": []},
            "plugins": {"type": "list", "elements": "str", "default": []},
            "address": {"type": "str", "default": "127.0.0.1"},
        }
    )
    signals.end_at_signals()
    given, result = module.params, {"changed": False, "returned": False, "short": "", "said": ""}
    outcome: dict[str, Any] = {}
    try:
        if given["step"] == "keep":
            previous.keep(given["made"], given["plugins"], given["address"])
        elif given["step"] == "back":
            outcome = previous.go_back(given["plugins"], given["address"])._asdict()
            outcome["changed"] = outcome["returned"]
        else:
            previous.remove()
    except OSError as error:
        module.fail_json(msg=explain(error, previous.DIRECTORY), **result)
    except Refused as error:
        module.fail_json(msg=str(error), **result)
    module.exit_json(**{**result, **outcome})


if __name__ == "__main__":
    main()
