# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: orthanc_template
short_description: Render templates of a role
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Renders templates as P(ansible.builtin.template#lookup) does, without first making a copy of every variable of the
    host. That copy takes that lookup most of its time, and a deploy renders twenty templates.
options:
  _terms:
    description: Names of files in the directory C(templates) of the role or the playbook.
    type: list
    elements: str
    required: true
  template_vars:
    description: Variables that the templates see besides those of the host.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Write a unit
  clinicops.orthanc.orthanc_files:
    files:
      - path: /etc/systemd/system/orthanc-monitor.service
        content: "{{ lookup('clinicops.orthanc.orthanc_template', 'orthanc-monitor.service.j2') }}"
"""

RETURN = r"""
_list:
  description: The text of each.
  type: list
  elements: str
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import generate_ansible_template_vars, trust_as_template


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        return [self._render(term, variables or {}, kwargs.get("template_vars", {})) for term in terms]

    def _render(self, term: str, variables: Mapping[str, Any], more: Mapping[str, Any]) -> str:
        path = self.find_file_in_search_path(variables, "templates", term)
        if not path:
            raise AnsibleLookupError(f"clinicops.orthanc.orthanc_template: there is no template {term}")
        known = {**generate_ansible_template_vars(path=term, fullpath=path), **variables, **more}
        templar = self._templar.copy_with_new_env(available_variables=known, searchpath=[str(Path(path).parent)])
        text: str = templar.template(
            trust_as_template(self._loader.get_text_file_contents(path)), escape_backslashes=False
        )
        return text
