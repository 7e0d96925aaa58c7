"""What a deploy writes into the terminal, by the real ansible-playbook."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from terminal import ROOT, run_in_terminal

LONG = "orthanc_setting: " + "the value that somebody wrote here is far from right, " * 5
PLAY = """
- name: First play
  hosts: all
  gather_facts: false
  roles: [orthanc_proxy, another]
  pre_tasks:
    - name: Look before
      ansible.builtin.command: "true"
      changed_when: false
- name: Second play
  hosts: all
  gather_facts: false
  tasks:
    - name: Write a file
      ansible.builtin.copy: {content: "new\\n", dest: "{{ directory }}/{{ inventory_hostname }}.txt"}
      diff: true
    - name: Several
      ansible.builtin.command: "echo {{ item }}"
      changed_when: item == 2
      loop: [1, 2, 3]
    - name: Warn
      warn: {}
    - name: Say something
      ansible.builtin.debug: {msg: [first line, "\\e[31msecond line"]}
    - name: Fails, and is mended
      block:
        - name: Fail inside
          ansible.builtin.command: "false"
      rescue:
        - name: Mend
          ansible.builtin.command: "true"
          changed_when: false
    - name: Is not important
      ansible.builtin.command: "false"
      # the callback is to say of it that the deploy went on
      ignore_errors: true
    - name: Try again
      ansible.builtin.command: "false"
      register: tried
      until: false
      retries: 1
      delay: 0
      # its retries are looked at, not its end
      failed_when: false
      changed_when: false
    - name: Refuse
      ansible.builtin.assert:
        that: false
        fail_msg: "LONG Remedy: write another one."
      when: inventory_hostname in ['a', 'b']
    - name: Hold a secret
      ansible.builtin.command: "ls /s3cret"
      no_log: true
      when: inventory_hostname == 'c'
    - name: Need what is missing
      ansible.builtin.debug: {msg: "{{ missing.entirely }}"}
      when: inventory_hostname == 'd'
    - name: Refuse each
      ansible.builtin.fail: {msg: "Not {{ item }}."}
      loop: [x, y]
"""
ROLE = """
- name: Set it up
  ansible.builtin.command: "true"
  notify: Restart it
- name: Right already
  ansible.builtin.command: "true"
  changed_when: false
- name: Bring more
  ansible.builtin.include_tasks: more.yml
"""
MODULE = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({})
module.warn("There is something that\\nsomebody should know, " * 4)
module.exit_json()
"""
HOSTS = ("a", "b", "c", "d", "e", "gone")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("play")
    (made / "play.yml").write_text(PLAY.replace("LONG", LONG))
    for role in ("orthanc_proxy", "another"):
        tasks = made / "roles" / role / "tasks"
        tasks.mkdir(parents=True)
        (tasks / "main.yml").write_text(ROLE)
        (tasks / "more.yml").write_text("- name: More\n  ansible.builtin.command: 'true'\n")
        handlers = made / "roles" / role / "handlers"
        handlers.mkdir()
        (handlers / "main.yml").write_text("- name: Restart it\n  ansible.builtin.command: 'true'\n")
    (made / "library").mkdir()
    (made / "library" / "warn.py").write_text(MODULE)
    ssh = made / "ssh"
    # it reads what it is given first: one that ended earlier would be reported as a broken pipe
    read = "[ ! -p /dev/stdin ] || cat >/dev/null"
    ssh.write_text(f"#!/bin/sh\n{read}\necho 'connect to host gone: No route to host' >&2\nexit 255\n")
    ssh.chmod(0o755)
    lines = [f"{host} ansible_connection=local" for host in HOSTS[:-1]]
    lines.append(f"gone ansible_connection=ssh ansible_ssh_executable={ssh}")
    (made / "hosts").write_text("\n".join(lines) + "\n")
    return made


def seen(directory: Path, *options: str, hosts: str = "all", **environment: str) -> tuple[int, list[str]]:
    command = ["ansible-playbook", "-i", str(directory / "hosts"), "--limit", hosts, "-e", f"directory={directory}"]
    return run_in_terminal([*command, *options, str(directory / "play.yml")], environment)


@pytest.fixture(scope="module")
def whole(directory: Path) -> list[str]:
    status, lines = seen(directory)
    assert status != 0
    return lines


def told(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def test_the_steps_are_counted_over_all_plays(whole: list[str]) -> None:
    assert [line for line in whole if line.startswith("Step ")] == [
        "Step 1 of 4  Checks before anything changes",
        "Step 2 of 4  HTTPS",
        "Step 3 of 4  another",
        "Step 4 of 4  Second play",
    ]


def test_each_change_is_a_line_and_what_was_right_is_none(whole: list[str]) -> None:
    for task in ("Set it up", "More"):
        assert whole.count(f"  changed  a: {task}") == 2, task
    for task in ("Write a file", "Several"):
        assert whole.count(f"  changed  e: {task}") == 1
    assert "Right already" not in "\n".join(whole)
    assert next(line for line in whole if "Look before" in line) == "  NOT REACHED gone: Look before"
    assert "      first line" not in whole
    assert "    first line" in whole
    assert "    \\x1b[31msecond line" in whole


def test_no_line_is_wider_than_the_terminal(whole: list[str]) -> None:
    assert [line for line in whole if len(line) > 100] == []


def test_what_failed_stands_at_the_end_once_and_without_the_source(whole: list[str]) -> None:
    end = whole[next(number for number, line in enumerate(whole) if line.startswith("It took ")) :]
    assert told(whole).count(f"{LONG}Remedy: write another one.") == 1, "of two hosts"
    assert f"{LONG}Remedy: write another one." in told(end)
    assert "FAILED on a, b: Refuse (step 4 of 4, Second play)" in end
    assert "FAILED on c: Hold a secret (step 4 of 4, Second play)" in end
    assert "'missing' is undefined" in told(end)
    assert "x: Not x." in told(end)
    assert "y: Not y." in told(end)
    assert "No route to host" in told(end)
    text = "\n".join(whole)
    for noise in ("Origin:", "fatal:", "[ERROR]", "play.yml", "s3cret", "TASK [", "skipping", "RECAP", "dispatch"):
        assert noise not in text, noise
    assert "Fail inside" not in "\n".join(end)
    assert "Is not important" not in "\n".join(end)
    assert "  went on  e: Is not important: non-zero return code" in whole
    assert told(whole).count("warning There is something that somebody should know") == 1
    assert "  waiting  e: Try again (tries left: 1)" in whole


def test_the_end_says_what_changed_and_how_long_it_took(whole: list[str]) -> None:
    start = whole.index("e")
    assert told(whole[start:]).startswith("e Changed HTTPS: Set it up, More; another: Set it up, More, Restart it;")
    assert told(whole[whole.index("gone") :]).startswith("gone Changed nothing")


def test_check_mode_changes_nothing_and_says_what_would_change(directory: Path) -> None:
    for file in directory.glob("*.txt"):
        file.unlink()
    _, lines = seen(directory, "--check", "--diff", hosts="a")
    assert lines[0] == "Check mode: nothing is changed."
    assert "  would change Write a file" in lines
    assert "+new" in lines
    assert "Would change Second play: Write a file" in told(lines)
    assert not list(directory.glob("*.txt"))


def test_more_is_what_the_default_callback_writes(directory: Path) -> None:
    _, lines = seen(directory, "-v", hosts="a")
    assert any(line.startswith("PLAY RECAP") for line in lines)
    assert any(line.startswith("fatal: [a]: FAILED!") for line in lines)
    assert not [line for line in lines if line.startswith("Step ")]


def test_the_deploy_has_a_name_for_each_of_its_steps() -> None:
    inventory = ["-i", str(ROOT / "inventories/single_clinic"), "--connection=local", "--check"]
    status, lines = run_in_terminal(["ansible-playbook", *inventory, "clinicops.orthanc.deploy"])
    assert status == 2
    steps = [line for line in lines if line.startswith("Step ")]
    assert [re.sub(r" of \d\d ", " of n ", line) for line in steps] == [
        "Step 1 of n  Checks before anything changes",
    ]
    assert sum(line.startswith("FAILED on pacs: ") for line in lines) == 1
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if "dispatch" in line]
