# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: deploy
type: stdout
short_description: Show a deploy step by step, in lines that fit the terminal
version_added: 1.0.0
author: the clinicops.orthanc maintainers (@clinicops)
description:
  - Shows which step of how many is running, writes one line for each task that changes something, and omits tasks that
    change nothing.
  - Ends with what changed on each host and how long the deploy took. A failure is shown once, at the very end, as the
    message with its remedy and without the source of the role.
  - If a play runs in batches (C(serial)), shows which hosts each batch has, and ends with a list of those that are
    done, failed, not reached, and not begun. What more than eight hosts have in common is shown once.
  - With C(-v) and more it writes the same as P(ansible.builtin.default#callback).
  - A play with roles has a step for its C(pre_tasks), one for each role, and one for each role that C(post_tasks)
    import; another of its C(post_tasks) belongs to the step before it. Other plays have a step for each role that they
    import, and one for everything else.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - C(stdout_callback = clinicops.orthanc.deploy) in ansible.cfg
"""

import functools
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ansible import constants as C
from ansible import context
from ansible.playbook.block import Block
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core import words
from ansible_collections.clinicops.orthanc.plugins.module_utils.server.core.escaping import escape

TITLES = {
    "orthanc_firewall": "Firewall",
    "orthanc_install": "Orthanc itself",
    "orthanc_tools": "Programs of the server",
    "orthanc_config": "Configuration",
    "orthanc_worklist": "Worklist",
    "orthanc_proxy": "HTTPS",
    "orthanc_backup": "Backup",
    "orthanc_monitor": "Monitoring",
    "orthanc_verify": "Acceptance test",
}
BEFORE = "Checks before anything changes"
WIDEST = 100  # of a window that is wider
LISTED = 8  # more changes or hosts than these are counted, not named
EVERYWHERE = "all hosts"  # where a task runs once for all of them
# Ansible's prefix to a message: its place in the role's source
ANSIBLE = re.compile(
    r"^Task failed: (?:Finalization of task args for '[^']*' failed: (?:Error while resolving value for '[^']*': )?)?"
)
TAIL = 15  # lines of what a failed command wrote


class Change(NamedTuple):
    step: str
    said: list[str]


class Failure(NamedTuple):
    where: str
    task: str
    message: str


def in_words(method: Callable[..., None]) -> Callable[..., None]:
    """The method, or that of the default callback with -v."""

    @functools.wraps(method)
    def choose(self: CallbackModule, *given: Any, **named: Any) -> None:
        wanted = getattr(Default, method.__name__).__get__(self) if self._display.verbosity else method.__get__(self)
        wanted(*given, **named)

    return choose


class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "clinicops.orthanc.deploy"

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._titles: list[str] = []
        self._steps: dict[str, int] = {}  # of each task
        self._step = 0
        self._changes: dict[str, list[Change]] = {}
        self._failures: dict[str, list[Failure]] = {}
        self._many = False
        self._batches = 0
        self._hosts: list[str] = []  # of the play that runs in batches
        self._begun: set[str] = set()  # hosts of that play on which something ran
        self._concerned: set[str] = set()  # hosts on which a task ran that was not for all hosts at once
        self._warned: set[str] = set()
        # since when a host's asynchronous task runs, and when that was shown last
        self._waits: dict[tuple[str, str], tuple[float, float]] = {}

    # --- steps ----------------------------------------------------------------------------------
    @in_words
    def v2_playbook_on_start(self, playbook: Any) -> None:
        for title, tasks in (step for play in playbook.get_plays() for step in find_steps(play)):
            # plays that check something one after the other are one step
            if [title] != self._titles[-1:]:
                self._titles.append(title)
            # a role that two others need runs once, with the first of them
            self._steps = dict.fromkeys(tasks, len(self._titles)) | self._steps
        if context.CLIARGS["check"]:
            self._say("Check mode: nothing is changed.")

    @in_words
    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play = play
        known = play.get_variable_manager().get_vars(play=play)
        hosts, batch = known.get("ansible_play_hosts_all", []), known.get("ansible_play_batch", [])
        self._many = self._many or len(hosts) > 1
        if play.serial and self._many:
            self._begin_batch(hosts, batch)

    def _begin_batch(self, hosts: list[str], batch: list[str]) -> None:
        """Shows which hosts the batch has; its steps are shown again."""
        self._hosts, self._batches = hosts, self._batches + 1
        if self._batches > 1:
            self._step = 0
        if batch != hosts:
            named = ", ".join(batch) if len(batch) <= LISTED else words.say_count(len(batch), "host")
            until = hosts.index(batch[-1]) + 1 if batch else len(hosts)
            self._say("")
            self._say(f"Batch {self._batches}: {named} ({until} of {len(hosts)})", color=C.COLOR_HIGHLIGHT)

    @in_words
    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        self._last_task_name = task.get_name().strip()
        step = self._steps.get(task._uuid)  # tasks included at run time belong to the step of their include
        if step and step != self._step:
            self._step = step
            self._say(f"{self._place()}  {self._title()}", color=C.COLOR_HIGHLIGHT)

    @in_words
    def _print_task_banner(self, task: Any) -> None:
        """For the default callback's methods: the title of a diff."""
        self._last_task_banner = task._uuid
        self._say(name_of(task), indent="  ")

    def _place(self) -> str:
        return f"Step {self._step} of {len(self._titles)}"

    def _title(self) -> str:
        return self._titles[self._step - 1] if self._step else ""

    # --- results --------------------------------------------------------------------------------
    @in_words
    def v2_runner_on_ok(self, result: Any) -> None:
        self._handle_warnings_and_exception(result)
        found, host = result.result, self._note(result)
        if found.get("changed"):
            name = name_of(result.task)
            said = found.get("changes") if is_text(found.get("changes")) else [name]
            self._changes.setdefault(host, []).append(Change(self._title(), said))
            self._line("would change" if result.task.check_mode else "changed", host, name, C.COLOR_CHANGED)
        if "results" not in found:
            self._show(host, found)

    @in_words
    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._handle_warnings_and_exception(result)
        host, name = self._note(result), name_of(result.task)
        if ignore_errors or is_rescued(result.task):
            self._line("went on", host, f"{name}: {describe(result).splitlines()[0]}", C.COLOR_SKIP)
        else:
            self._fail(host, name, describe(result))
            self._line("FAILED", host, name, C.COLOR_ERROR)

    @in_words
    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._handle_warnings_and_exception(result)
        host = self._note(result)
        if result.task.ignore_unreachable:
            self._line("went on", host, f"{name_of(result.task)}: unreachable", C.COLOR_SKIP)
        else:
            self._fail(host, name_of(result.task), f"The machine is unreachable.\n{describe(result)}")
            self._line("NOT REACHED", host, name_of(result.task), C.COLOR_UNREACHABLE)

    def _note(self, result: Any) -> str:
        """The host of a result; EVERYWHERE for a task that ran once for all hosts."""
        host: str = result.host.get_name()
        if result.task.run_once and self._many:
            return EVERYWHERE
        self._concerned.add(host)
        if self._play.serial:
            self._begun.add(host)
        return host

    @in_words
    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._handle_warnings_and_exception(result)
        self._show(result.host.get_name(), result.result)

    @in_words
    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._handle_warnings_and_exception(result)

    @in_words
    def v2_runner_retry(self, result: Any) -> None:
        left = result.result["retries"] - result.result["attempts"]
        self._line("waiting", result.host.get_name(), f"{name_of(result.task)} (tries left: {left})", C.COLOR_DEBUG)

    @in_words
    def v2_runner_on_async_poll(self, result: Any) -> None:
        """Once a minute: it may take hours."""
        host, now = result.host.get_name(), time.monotonic()
        began, told = self._waits.setdefault((host, result.task._uuid), (now, now))
        if now - told >= 60:
            self._waits[host, result.task._uuid] = (began, now)
            said = f"{name_of(result.task)} (for {words.say_duration(now - began)})"
            self._line("running", host, said, C.COLOR_DEBUG)

    @in_words
    def v2_runner_on_async_ok(self, result: Any) -> None:
        pass

    @in_words
    def v2_runner_on_async_failed(self, result: Any) -> None:
        pass

    @in_words
    def v2_runner_on_skipped(self, result: Any) -> None:
        self._handle_warnings_and_exception(result)

    @in_words
    def v2_runner_item_on_skipped(self, result: Any) -> None:
        self._handle_warnings_and_exception(result)

    @in_words
    def v2_playbook_on_include(self, included_file: Any) -> None:
        pass

    @in_words
    def v2_playbook_on_no_hosts_remaining(self) -> None:
        pass

    def _handle_warnings(self, res: Any) -> None:
        """Shows each warning once, without the task's place in the role's source."""
        if self._display.verbosity:
            super()._handle_warnings(res)
            return
        for warning in res.pop("warnings", None) or []:
            said = str(getattr(getattr(warning, "event", None), "msg", None) or warning)
            if said not in self._warned:
                self._warned.add(said)
                # orthanc_warned has wrapped it into lines, for the default callback
                self._say(f"warning  {' '.join(said.split())}", indent="  ", hanging=11, color=C.COLOR_WARN)
        super()._handle_warnings(res)  # deprecations

    def _handle_exception(self, result: Any, use_stderr: bool = False) -> None:
        """Shows nothing: the message is that of the task, and the rest is its place in the role's source."""
        if self._display.verbosity:
            super()._handle_exception(result, use_stderr=use_stderr)
        else:
            result.pop("exception", None)

    def _show(self, host: str, found: Any) -> None:
        """Shows the output of debug, and of assert with a message of its own."""
        if not found.get("_ansible_verbose_always") or found.get("msg") == "All assertions passed":
            return
        named = self._many and host != EVERYWHERE
        if named:
            self._say(f"{host}:", indent="  ")
        for line in lines_of(found["msg"] if "msg" in found else self._dump_results(found)):
            self._say(line, indent="    " if named else "  ")

    def _fail(self, host: str, task: str, message: str) -> None:
        where = f"step {self._step} of {len(self._titles)}, {self._title()}" if self._step else "before the first step"
        self._failures.setdefault(host, []).append(Failure(where, task, message))

    # --- the end --------------------------------------------------------------------------------
    @in_words
    def v2_playbook_on_stats(self, stats: Any) -> None:
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        failed = [host for host, counts in hosts.items() if counts["failures"] or counts["unreachable"]]
        self._say("")
        for named, facts in self._summarise(hosts, stats.custom):
            self._say(named, color=C.COLOR_HIGHLIGHT)
            for name, fact in facts.items():
                self._say(f"{name:9} {fact}", indent="  ", hanging=12)
        self._say(f"It took {words.say_duration(time.monotonic() - self._began)}.")
        if self._batches:
            self._list_outcomes(hosts)
        # what needs a person comes last; a machine that does not answer may answer later
        failed.sort(key=lambda host: not hosts[host]["unreachable"])
        failed += [EVERYWHERE] if EVERYWHERE in self._failures else []
        same: dict[Failure, list[str]] = {}
        for host in failed:
            for failure in self._failures.get(host, []):
                same.setdefault(failure, []).append(host)
        for failure, of in same.items():
            self._say("")
            self._say(f"FAILED on {', '.join(of)}: {failure.task} ({failure.where})", color=C.COLOR_ERROR)
            for line in failure.message.splitlines():
                self._say(line, indent="  ")

    def _summarise(self, hosts: Iterable[str], custom: Any) -> Iterator[tuple[str, dict[str, str]]]:
        """What changed on each host, and what the play adds to that; of many hosts, what they have in common."""
        changed = "Would change" if context.CLIARGS["check"] else "Changed"
        facts: dict[str, dict[str, str]] = {}
        for host in hosts:
            # which host a task for all of them ran on, and what a roll-out did not come to, is of no interest
            if self._many and (host not in self._concerned or (self._batches and host not in self._begun)):
                continue
            told = dict(custom.get(host) or {}).get("orthanc") or {}
            facts[host] = {changed: self._list_changes(host), **(told if isinstance(told, dict) else {})}
        if len(facts) <= LISTED:
            yield from facts.items()
            return
        common: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for host, own in facts.items():
            # each host has a report of its own
            common.setdefault(tuple(item for item in own.items() if item[0] != "Report"), []).append(host)
        for items, alike in sorted(common.items(), key=lambda item: -len(item[1])):
            yield f"{words.say_count(len(alike), 'host')}: {', '.join(alike)}", dict(items)

    def _list_outcomes(self, hosts: dict[str, dict[str, int]]) -> None:
        """What became of each host of a roll-out."""
        unreached = [host for host, counts in hosts.items() if counts["unreachable"]]
        failed = [host for host, counts in hosts.items() if counts["failures"] and host not in unreached]
        outcomes = {
            "done": [host for host in self._hosts if host in self._begun and host not in {*failed, *unreached}],
            "FAILED": failed,
            "NOT REACHED": unreached,
            "not begun": [host for host in self._hosts if host not in {*self._begun, *failed, *unreached}],
        }
        colors = {"FAILED": C.COLOR_ERROR, "NOT REACHED": C.COLOR_UNREACHABLE, "not begun": C.COLOR_SKIP}
        for word, named in outcomes.items():
            if named:
                said = f"{word:11} {len(named):4}  {', '.join(named)}"
                self._say(said, indent="  ", hanging=20, color=colors.get(word))

    def _list_changes(self, host: str) -> str:
        """What changed on the host: each change by its step, or, if there are many, their number in each step."""
        steps: dict[str, list[str]] = {}
        for change in self._changes.get(host, []):
            steps.setdefault(change.step, []).extend(change.said)
        if not steps:
            return "nothing"
        if sum(map(len, steps.values())) > LISTED:
            return ", ".join(f"{step} ({len(said)})" for step, said in steps.items())
        return "; ".join(f"{step}: {', '.join(said)}" for step, said in steps.items())

    # --- lines ----------------------------------------------------------------------------------
    def _line(self, word: str, host: str, said: str, color: str) -> None:
        of = f"{host}: " if self._many else ""
        self._say(f"{word:8} {of}{said}", indent="  ", hanging=11, color=color)

    def _say(self, text: str, *, indent: str = "", hanging: int = 0, color: str | None = None) -> None:
        """Prints one paragraph, wrapped to the terminal; control characters from a machine are escaped."""
        width = min(self._display.columns, WIDEST)
        text = escape(text)
        kept = len(text) - len(text.lstrip())
        further = " " * (hanging or len(indent) + kept)
        parts = textwrap.wrap(
            text,
            width,
            initial_indent=indent,
            subsequent_indent=further,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for part in parts or [""]:
            self._display.display(part, color=color)


def find_steps(play: Any) -> Iterator[tuple[str, list[str]]]:
    """The steps of a play: the title of each, and the ids of its tasks. A step without tasks is left out."""
    # the play's roles include those of import_role as well
    roles = [role for role in play.get_roles() if not role.from_include]
    steps = [(BEFORE if roles else play.get_name(), [task._uuid for task in list_tasks(play.pre_tasks)])]
    for role in roles:
        blocks = [block for each in [*role.get_all_dependencies(), role] for block in each.get_task_blocks()]
        title = TITLES.get(role.get_name().rpartition(".")[2], role.get_name())
        steps.append((title, [task._uuid for task in list_tasks(blocks)]))
    for section in (play.tasks, play.post_tasks):
        imported: dict[str, list[str]] = {}
        title = play.get_name()
        for task in list_tasks(section):
            title = name_import(task) or (title if roles else play.get_name())
            imported.setdefault(title, []).append(task._uuid)
        steps += imported.items()
    return ((escape(title), tasks) for title, tasks in steps if tasks)


def list_tasks(items: Iterable[Any]) -> Iterator[Any]:
    """The tasks of nested blocks."""
    for item in items:
        if isinstance(item, Block):
            yield from list_tasks([*item.block, *item.rescue, *item.always])
        else:
            yield item


def name_import(task: Any) -> str:
    """The name that the play gives to the import of the role or file that the task comes from."""
    found, outer = None, task.get_first_parent_include()
    while outer:
        found, outer = outer, outer.get_first_parent_include()
    return str(found.name or found.get_name()).strip() if found else ""


def is_rescued(task: Any) -> bool:
    """Whether a block around the task rescues its failure."""
    inner, outer = task, task._parent
    while outer:
        if isinstance(outer, Block) and outer.rescue and inner._uuid not in {each._uuid for each in outer.rescue}:
            return True
        inner, outer = outer, outer._parent
    return False


def name_of(task: Any) -> str:
    """The task's own name, without its role's."""
    return str(task.get_name(include_role_fqcn=False)).rpartition(" : ")[2].strip()


def describe(result: Any) -> str:
    """Why a task failed, as lines: its message, its cause, and the last output of a failed command."""
    found = result.result
    results = [each for each in found.get("results") or [] if isinstance(each, dict) and each.get("failed")]
    if results:
        return "\n".join(f"{label_of(each)}: {line}" for each in results for line in describe_one(each))
    said = describe_one(found)
    cause = "" if "censored" in found else " ".join(find_cause(result.exception).split())
    return "\n".join(said if cause in " ".join(" ".join(said).split()) else [*said, cause])


def describe_one(found: dict[str, Any]) -> list[str]:
    if "censored" in found:
        return ["The output is hidden because it may contain secrets (no_log)."]
    said = lines_of(ANSIBLE.sub("", str_of(found.get("msg"))) or "The task failed without a message.")
    if "rc" in found or "module_stderr" in found:
        wrote = (found.get(key) for key in ("stderr", "module_stderr", "stdout", "module_stdout"))
        said += dict.fromkeys(line for text in wrote if text for line in lines_of(text)[-TAIL:] if line not in said)
    return said


def find_cause(exception: Any) -> str:
    """The innermost cause that Ansible knows; empty if this version of Ansible stores it elsewhere."""
    cause, event = "", getattr(exception, "event", None)
    while event := getattr(getattr(event, "chain", None), "event", None):
        cause = str(event.msg)
    return cause


def label_of(found: dict[str, Any]) -> str:
    return str(found.get("_ansible_item_label", found.get(found.get("ansible_loop_var", "item"), "")))


def is_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def lines_of(said: Any) -> list[str]:
    """The lines of a message, which may be a string or a list."""
    return [line.expandtabs().rstrip() for line in str_of(said).strip("\n").splitlines()]


def str_of(said: Any) -> str:
    return "\n".join(map(str, said)) if isinstance(said, list) else str(said or "")
