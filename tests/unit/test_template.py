"""The lookup that renders the roles' templates gives what Ansible's own gives, by the real ansible-playbook."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNIT = """\
# {{ ansible_managed }} {{ template_path }} {{ template_fullpath | basename }}
{# not in the text #}
{% for port in ports %}
Listen={{ port.name }}:{{ port.number + 1 }} {{ port.text }}
{% endfor %}
{% if more | default('') %}
More={{ more }}
{% endif %}
Path=C:\\new\\{{ computed }}
{% include 'part.j2' %}

"""
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    computed: "{{ ports | map(attribute='name') | join('+') }}"
    ports: [{name: dicom, number: 4242, text: "{{ 'a' ~ 'b' }}"}, {name: http, number: 8042, text: 'x\\ty'}]
    found:
      theirs: "{{ lookup('ansible.builtin.template', 'unit.j2') }}"
      ours: "{{ lookup('clinicops.orthanc.orthanc_template', 'unit.j2') }}"
      their_more: "{{ lookup('ansible.builtin.template', 'unit.j2', template_vars={'more': ports[0].name}) }}"
      our_more: "{{ lookup('clinicops.orthanc.orthanc_template', 'unit.j2', template_vars={'more': ports[0].name}) }}"
  tasks:
    - ansible.builtin.copy: {content: "{{ found | to_json }}", dest: "{{ playbook_dir }}/found.json", mode: "0600"}
    - ansible.builtin.debug: {msg: "{{ lookup('clinicops.orthanc.orthanc_template', 'missing.j2') }}"}
"""


def test_a_template_gives_the_same_text_as_with_ansible_s_own_lookup(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/unit.j2").write_text(UNIT)
    (tmp_path / "templates/part.j2").write_text("Part={{ computed }}\n")
    (tmp_path / "play.yml").write_text(PLAY)
    done = subprocess.run(
        ["ansible-playbook", str(tmp_path / "play.yml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "default"},
    )
    said = " ".join(done.stdout.split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert "there is no template missing.j2" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ours"] == found["theirs"]
    assert found["our_more"] == found["their_more"]
    assert found["ours"].splitlines()[0].endswith(" unit.j2 unit.j2")
    assert "Listen=dicom:4243 ab\n" in found["ours"]
    assert found["ours"].endswith("Path=C:\\new\\dicom+http\nPart=dicom+http\n\n")
    assert "\nMore=dicom\n" in found["our_more"]
    assert "More=" not in found["ours"]
