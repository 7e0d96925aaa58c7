#!/usr/bin/python
# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: orthanc_configuration
short_description: Apply a configuration of Orthanc, and roll back if Orthanc does not start
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Tries the configuration first. The real binary starts with it for some seconds, on the ports of production in a
    separate network namespace, with empty directories in memory instead of images and index.
  - Then writes the file, restarts Orthanc and checks that it answers over HTTP and DICOM. If it does not, the module
    restores the previous file and fails with the reason, Orthanc's last log lines and the duration of the outage.
  - If a run is interrupted before the restart, the next run finishes it.
options:
  content:
    description: The whole configuration, as JSON.
    type: str
    required: true
  path:
    description: The file that the unit reads. Owner root, group orthanc, mode 0640.
    type: path
    required: true
  image:
    description: The image of the container C(orthanc); empty means the unit C(orthanc.service) of Debian's package.
    type: str
    default: ""
  address:
    description: The address from which Orthanc sees connections of this machine itself.
    type: str
    default: 127.0.0.1
  plugins:
    description: Names of the plugins that must be loaded, as C(/plugins) lists them.
    type: list
    elements: str
    default: [dicom-web, worklists]
  statistics:
    description:
      - Whether the index has statistics, with which SQLite plans Orthanc's queries. Without them it reads whole tables,
        which takes seconds once there are 50,000 images (docs/performance.md).
      - They are written while Orthanc is stopped for a moment, and V(false) takes them away.
    type: bool
    default: true
  trial:
    description:
      - V(first) tries the configuration where it differs from the file, and then applies it.
      - V(only) tries it in any case and changes nothing, as before a container or a unit is replaced.
      - V(passed) applies it; the same configuration has passed its trial just before.
    type: str
    choices: [first, only, passed]
    default: first
  timeout:
    description: Seconds that Orthanc may take to start. A large index takes longer.
    type: int
    default: 300
attributes:
  check_mode:
    description:
      - The trial also runs in check mode, where the packages that it needs are installed; it leaves nothing behind.
    support: full
  diff_mode:
    description: Every secret is masked.
    support: full
"""

EXAMPLES = r"""
- name: Apply this configuration of Orthanc
  clinicops.orthanc.orthanc_configuration:
    content: "{{ __orthanc_config_input | clinicops.orthanc.orthanc_json | to_nice_json }}"
    path: /etc/orthanc/site/orthanc.json
"""

RETURN = r"""
trial_ms:
  description: Milliseconds that the trial took; 0 when none was needed.
  type: int
  returned: success
interruption_ms:
  description: Milliseconds from the restart to the first answer; 0 when nothing was restarted.
  type: int
  returned: success
changes:
  description: What changed, in words, without any values.
  type: list
  elements: str
  returned: success
"""

import json
import pwd
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clinicops.orthanc.plugins.module_utils import differences, masking, service, signals
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.errors import explain
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.process import try_output


def mask_text(text: str) -> str:
    """The content with its secrets masked, for a diff; a file edited by hand may not be plain JSON."""
    try:
        return json.dumps(masking.mask(json.loads(text)), indent=4, sort_keys=True) + "\n" if text else ""
    except ValueError:
        return "(not shown, because it is not plain JSON)\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            # secret as a whole; its values may appear in messages, except for those that masking hides
            "content": {"type": "str", "required": True, "no_log": True},
            "path": {"type": "path", "required": True},
            "image": {"type": "str", "default": ""},
            "address": {"type": "str", "default": "127.0.0.1"},
            "plugins": {"type": "list", "elements": "str", "default": ["dicom-web", "worklists"]},
            "statistics": {"type": "bool", "default": True},
            "trial": {"type": "str", "choices": ["first", "only", "passed"], "default": "first"},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    # an interrupted play ends the trial on its way out
    signals.end_at_signals()
    content, path, plugins = module.params["content"], Path(module.params["path"]), module.params["plugins"]
    limit, image = float(module.params["timeout"]), module.params["image"]
    runner = service.Container(image, module.params["address"]) if image else service.Unit()
    try:
        configuration: Any = json.loads(content)
    except ValueError as error:
        module.fail_json(msg=f"content is not JSON: {error}")
    present = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    differs = present != content
    was, will = mask_text(present), mask_text(content)
    if differs and was == will:
        will += "(a secret differs, or only the formatting)\n"
    result = {
        "changed": differs,
        "diff": {
            "before": was,
            "after": will,
            "before_header": str(path),
            "after_header": str(path),
        },
        "trial_ms": 0,
        "interruption_ms": 0,
    }
    trial = module.params["trial"]
    tries = trial == "only" or (trial == "first" and differs and runner.is_installed())
    try:
        if tries and (not module.check_mode or can_try(configuration, image)):
            result["trial_ms"] = service.try_configuration(runner, configuration, plugins)
    except service.Failure as failure:
        # where another Orthanc is to be replaced, this one does not run yet
        down = "" if trial == "only" or service.is_running(runner) else ", and Orthanc does not run"
        module.fail_json(
            msg=f"Orthanc does not start with this configuration; nothing was changed{down}. {failure}", **result
        )
    except OSError as error:
        module.fail_json(msg=f"The trial cannot run, and nothing was changed. {explain(error, path)}", **result)
    if trial == "only":
        module.exit_json(changes=[], **{**result, "changed": False, "diff": {}})
    try:
        if not module.check_mode and (differs or service.is_unfinished(runner, path)):
            result["changed"] = True
            result["interruption_ms"] = service.apply_configuration(runner, path, content, plugins, limit)
        index, wanted = service.find_index(configuration), module.params["statistics"]
        planned = service.lacks_statistics(index, wanted)
        if planned:
            result["changed"] = True
        if planned and not module.check_mode:
            spent = service.apply_statistics(runner, index, wanted, content, plugins, limit)
            result["interruption_ms"] += spent
    except service.Failure as failure:
        module.fail_json(msg=str(failure), **result)
    except OSError as error:
        module.fail_json(msg=explain(error, path), **result)
    changes = describe(present, content, result["interruption_ms"])
    if planned:
        changes.append(f"the index's statistics {'written' if wanted else 'removed'}")
    module.exit_json(changes=changes, **result)


def can_try(configuration: dict[str, Any], image: str) -> bool:
    """Whether this machine has the account, and the image or plugins, that a deploy would have made and installed by
    now. An image has its own plugins."""
    if "orthanc" not in {one.pw_name for one in pwd.getpwall()}:
        return False
    if image:
        return bool(try_output("docker", "image", "inspect", "--format={{.Id}}", image))
    return all(Path(one).exists() for one in configuration.get("Plugins", []))


def describe(before: str, after: str, interruption_ms: int) -> list[str]:
    """What the run did, for the summary of a deploy."""
    said = []
    if not before:
        said.append("orthanc.json written")
    elif before != after:
        differing = differences.list_differences(before, after)
        said.append(f"orthanc.json rewritten ({'; '.join(differing) or 'the same options, formatted differently'})")
    if interruption_ms:
        said.append(f"Orthanc restarted, {interruption_ms / 1000:.1f} s without service")
    return said


if __name__ == "__main__":
    main()
