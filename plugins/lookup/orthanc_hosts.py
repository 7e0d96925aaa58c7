# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_hosts
short_description: The hosts of a play, which must not be empty
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Returns the group of hosts that a playbook of this collection works on, for C(hosts) of its first play.
  - Fails if the inventory has no host in that group, if C(--limit) leaves none of them, if C(--tags) names one that no
    task of the playbook has, or if a file with variables of these hosts cannot be read. Ansible itself skips all tasks
    in the first three cases and reports success, to cron as well; in the last one it does not name the file.
  - Where another playbook imports the playbook, it may have more plays. There C(--limit) and C(--tags) are not checked,
    and a group without a host is a warning, unless the whole inventory has none.
  - Where Ansible only lists tasks or checks the syntax, nothing is checked.
options:
  _terms:
    description: Name of the group.
    type: list
    elements: str
    required: true
  tags:
    description: The tags that the tasks of the playbook have.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Make a backup now
  hosts: "{{ lookup('clinicops.orthanc.orthanc_hosts', 'orthanc') }}"
"""

RETURN = r"""
_list:
  description: The name of the group.
  type: list
  elements: str
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display

COLLECTION = "clinicops.orthanc."
PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
LISTING = ("listhosts", "listtasks", "listtags", "syntax")
INVENTORY = "give -i the directory of the inventory; in its hosts.yml, the servers are hosts of the group orthanc"
NAME = "give -i the name of the server, and a comma: `-i pacs.clinic.example,`"
PASSWORD = "add --ask-vault-pass, and type the password with which the file was encrypted"
YAML = "correct the file at the line that is named below"


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        [group], known = terms, variables or {}
        if not any(context.CLIARGS.get(option) for option in LISTING):
            if is_own_run():
                require_tags(known, kwargs.get("tags", []))
            self._require_readable(known, require_hosts(known, group))
        return terms

    def _require_readable(self, variables: Mapping[str, Any], hosts: set[str]) -> None:
        """Ansible reads the files next, and keeps what was read here. Its message has neither the file nor the line."""
        for path in self._list_files(variables, hosts):
            try:
                self._loader.load_from_file(path, cache="all", unsafe=True, trusted_as_template=True)
            except AnsibleError as error:
                remedy = PASSWORD if "decrypt" in str(error).lower() else YAML
                raise AnsibleError(f"{path} cannot be read. Remedy: {remedy}.") from error

    def _list_files(self, variables: Mapping[str, Any], hosts: set[str]) -> Iterator[str]:
        groups = [name for name, members in variables["groups"].items() if hosts & set(members)]
        # a list of hosts is no path, and may be too long for one
        for source in map(Path, filter(os.path.exists, variables.get("ansible_inventory_sources") or [])):
            directory = source if source.is_dir() else source.parent
            for below, names in (("group_vars", groups), ("host_vars", sorted(hosts))):
                # beside the link, where the inventory is one; Ansible finds what it has read by the real path
                place = (directory / below).resolve()
                for name in names if place.is_dir() else []:
                    yield from self._loader.find_vars_files(str(place), name)


def is_own_run() -> bool:
    """Whether the command line names a playbook of this collection, and not one that imports it."""
    named = context.CLIARGS.get("args") or []
    return all(name.startswith(COLLECTION) or Path(name).resolve().parent == PLAYBOOKS for name in named)


def require_tags(variables: Mapping[str, Any], known: list[str]) -> None:
    """Raises AnsibleError if the command line asks for a tag that no task has."""
    # a comma at the end adds an empty one, which selects nothing
    asked = set(variables.get("ansible_run_tags") or ["all"]) - {""} or {"''"}
    words = ["all", "always", "tagged"] if known else ["all", "untagged"]
    if unknown := sorted(asked.difference(words, known)):
        remedy = f"write one or more of {', '.join(known)}" if known else "run the playbook without --tags"
        raise AnsibleError(f"No task has the tag {', '.join(unknown)}, so nothing was done. Remedy: {remedy}.")


def require_hosts(variables: Mapping[str, Any], group: str) -> set[str]:
    """The hosts of the group that --limit leaves. Raises AnsibleError if a playbook of this collection has none."""
    own = is_own_run()
    hosts = set(variables["groups"].get(group, []))
    if not hosts:
        sources = ", ".join(variables.get("ansible_inventory_sources") or ["the inventory"])
        message = f"No server is in the group {group} of {sources}"
        if not own and variables["groups"].get("all"):
            Display().warning(f"{message}, so the plays of {COLLECTION}* are skipped.")
            return hosts
        remedy = NAME if group == "all" else INVENTORY
        raise AnsibleError(f"{message}{', so nothing was done' if own else ''}. Remedy: {remedy}.")
    # before the play's hosts are known, those of the whole inventory, within the limit
    limited = hosts & set(variables.get("ansible_play_hosts_all") or hosts)
    if not limited and own:
        limit = variables.get("ansible_limit")
        raise AnsibleError(f"No server of the group {group} is in --limit {limit}, so nothing was done.")
    return limited
