#!/usr/bin/env python3
"""A model of what a clinic is owed, against a real Orthanc, its backups and a real restic repository.

Sequences of what devices, people, faults and the product do are drawn by weight; an oracle of a few lines knows what
was acknowledged and deleted. As a program it plays sequences on one machine, and ends with a line of JSON:

    model.py MACHINE [--sequences N] [--first N] [--seed N] [--minutes N] [--go-on]
    model.py MACHINE --replay '[["store", 1, 2], ["backup"], ..]' [--shrink]

A seed and a number give a sequence. Every violation is printed with the steps that led to it, in the form that
--replay takes; --shrink leaves out what it can do without. (hypothesis' RuleBasedStateMachine draws rules evenly,
repeats itself and ends sequences after a step or two, which is dear where a step takes a second: the weights are ours.)
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, NamedTuple

from backups import DICOM, dicom_up
from clients import ADDRESSES, PASSWORDS, ROOT, put
from repositories import make_cheap

STEPS = 12  # of a sequence


# --- the machine -----------------------------------------------------------------------------------
class Violation(AssertionError):
    """What the product did or said that it must not."""


class Agent:
    """model_agent.py, which runs on the machine."""

    def __init__(self, name: str) -> None:
        dicom_up(name)
        for file in ("model_agent.py", "held.py"):
            put(name, f"/root/{file}", (ROOT / "tests/agents" / file).read_bytes())
        command = ["docker", "exec", "-i", f"--env=PYTHONPATH={DICOM}", name, "python3", "/root/model_agent.py"]
        self.process = subprocess.Popen(
            [*command, f"it:{PASSWORDS['it']}", ADDRESSES[name][0]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.seconds: collections.Counter[str] = collections.Counter()
        self.calls: collections.Counter[str] = collections.Counter()

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([name, arguments, options]), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer["error"]
        what = f"{name} {arguments[0]}" if name in ("program", "in_clone") else name
        self.seconds[what] += answer["seconds"]
        self.calls[what] += 1
        return answer["result"]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# --- the oracle ------------------------------------------------------------------------------------
class Snapshot(NamedTuple):
    """The images that it must restore to; and those that it may, since they came or went while it was made."""

    must: frozenset[str]
    may: frozenset[str]


class Oracle:
    """What is owed: each image that a device was told is stored, bit by bit, until a person takes it back."""

    def __init__(self) -> None:
        self.digest: dict[str, str] = {}  # of the bytes that were sent first: what got no answer may be there as well
        self.told: set[str] = set()  # acknowledged with 0x0000, and not deleted by a person since
        self.listed: set[str] = set()  # on a list of what to send again that a person got
        self.accepted: set[str] = set()  # a person accepted by name that it is not there any more
        self.noted: set[str] = set()  # told before a run of the ledger that succeeded
        self.snapshots: dict[str, Snapshot] = {}  # by the tag of their run, in the order of truth
        self.foreign: set[str] = set()  # those of them that a clone made

    def put_in_place(self, run: str) -> None:
        """What was restored goes on from there: it is the newest."""
        self.snapshots[run] = self.snapshots.pop(run)
        self.foreign.discard(run)

    @property
    def owed(self) -> set[str]:
        return self.told - self.accepted

    @property
    def saved(self) -> set[str]:
        return {uid for one in self.snapshots.values() for uid in one.must}

    def sound(self, found: dict[str, str]) -> set[str]:
        """Of what was found, the images that are bit by bit what was sent."""
        return {uid for uid, digest in found.items() if self.digest.get(uid) == digest}

    def newest(self, kept: dict[str, Any]) -> str:
        """Of those that are listed as proven, the one that was made last."""
        own = [run for run in self.snapshots if run not in self.foreign and run in kept and kept[run]["proven"]]
        return own[-1] if own else ""


def study_of(uid: str) -> str:
    return uid.rsplit(".", 2)[0]


CLONE, NO_INDEX = "a clone backed up", "the index was lost"


# --- the model -------------------------------------------------------------------------------------
class Run:
    """What all sequences of a run have in common."""

    def __init__(self) -> None:
        self.agent: Agent
        self.steps: collections.Counter[str] = collections.Counter()
        self.outcomes: collections.Counter[str] = collections.Counter()


RUN = Run()


class Model:
    """A sequence. A rule is what happens, and what must be true of the answer."""

    def __init__(self) -> None:
        self.oracle = Oracle()
        self.done: list[list[Any]] = []
        self.number = 0
        self.doubt: set[str] = set()  # what gives the next backup a reason to be refused
        self.cloned: set[str] | None = None  # what the clone holds
        self.clone_runs = -1  # how many snapshots there were when it was made
        self.compressed = False
        self.harmed = False  # a check may say so from then on, where it reads that file
        self.offered = ""  # the run whose snapshot a person was told to accept
        self.begin = time.monotonic()
        self.call("reset")

    # --- what the rules are made of ---------------------------------------------------------------
    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return RUN.agent.call(name, *arguments, **options)

    def step(self, *step: Any) -> None:
        self.done.append([*step])
        RUN.steps[step[0]] += 1
        print(f"  {time.monotonic() - self.begin:5.1f} {' '.join(map(str, step))}", flush=True)

    def require(self, what: str, wrong: Any, *facts: Any) -> None:
        """Nothing may be wrong; otherwise it is a violation, and the sequence ends."""
        if not wrong:
            return
        uids = wrong if isinstance(wrong, (set, frozenset)) else ()
        bytes_of = [self.oracle.digest[uid] for uid in uids if uid in self.oracle.digest]
        raise Violation({
            "what": what, "wrong": sorted(wrong) if uids else wrong, "facts": facts,
            "bytes are in": self.call("aside", bytes_of) if uids else {}, "steps": self.done,
        })  # fmt: skip

    def found(self) -> dict[str, str]:
        found: dict[str, str] = self.call("readable", sorted(self.oracle.digest))
        return found

    def readable(self) -> set[str]:
        """What can be read now, bit by bit."""
        return self.oracle.sound(self.found())

    def kept(self) -> dict[str, Any]:
        """The snapshots that are there as `list` tells of them, by the tag of their run."""
        answer = self.call("program", "list")
        self.require("the list fails", answer["status"], answer)
        return {one["run"]: one for one in answer["said"].get("snapshots", [])}

    def pick(self, uids: Iterable[str], number: int) -> str:
        uids = sorted(uids)
        return uids[number % len(uids)] if uids else ""

    def program(self, *arguments: str, **options: Any) -> tuple[bool, dict[str, Any], dict[str, Any]]:
        """Whether it says success, what it says, and everything that it said."""
        answer = self.call("program", *arguments, **options)
        good = answer["status"] == 0
        RUN.outcomes[f"{arguments[0]} {'success' if good else 'refused'}"] += 1
        self.require("a defect of the program", "Traceback" in answer["errors"], answer)
        return good, answer["said"], answer

    def made(self, must: set[str], may: set[str], foreign: bool = False) -> dict[str, Any]:
        """Remembers a new snapshot; those that there are."""
        kept = self.kept()
        for run in kept:
            if run not in self.oracle.snapshots:
                self.oracle.foreign |= {run} if foreign else set()
                self.remember(run, kept[run]["proven"], must, may)
        return kept

    def remember(self, run: str, proven: bool, must: set[str], may: set[str]) -> None:
        self.oracle.snapshots[run] = Snapshot(frozenset(must), frozenset(may))
        RUN.outcomes[f"snapshot {'proven' if proven else 'unproven'}"] += 1

    def lists(self, resend: list[dict[str, str]]) -> set[str]:
        """The images of a list of what to send again."""
        studies = {one["study"] for one in resend}
        return {uid for uid in self.oracle.digest if study_of(uid) in studies}

    # --- the beginning and the end ------------------------------------------------------------------
    def end(self) -> None:
        kept = self.kept()
        proven = [run for run in kept if kept[run]["proven"]]
        for run in {self.oracle.newest(kept), self.pick(proven, len(self.done) + self.number)} - {""}:
            self.restores(run, kept[run]["id"])
        self.nothing_is_lost(kept)
        self.everything_is_somewhere(kept)

    def restores(self, run: str, identity: str) -> None:
        """What is listed as proven restores bit by bit."""
        answer = self.call("restored", identity)
        self.require("what is proven cannot be restored", answer["status"], answer)
        held, snapshot = answer.get("held", {}), self.oracle.snapshots[run]
        sound = self.oracle.sound(held)
        self.require("a restored image has other bytes", {*held} - sound, answer["said"])
        self.require("what is proven restores to less", {*snapshot.must} - sound, answer["said"])
        self.require("what is proven restores to more", sound - snapshot.may, answer["said"])

    def nothing_is_lost(self, kept: dict[str, Any]) -> None:
        """Nothing that was in a snapshot, and nobody deleted, is missing from all of them and the server at once."""
        held = {uid for run in kept for uid in self.oracle.snapshots[run].must}
        lost = (self.oracle.told & self.oracle.saved) - held
        self.require("it is in no snapshot any more, and not on the server", lost - self.readable() if lost else lost)

    def everything_is_somewhere(self, kept: dict[str, Any]) -> None:
        """It can be read, now or from the newest proven snapshot, or is on the list of what to send again.

        While backups fail, which each of them says, a snapshot that is not proven counts as well. What is destroyed
        before a backup or the ledger knew of it is nobody's fault.
        """
        newest, runs = self.oracle.newest(kept), [*self.oracle.snapshots]
        since = [run for run in runs[runs.index(newest) if newest else 0 :] if run in kept]
        held = {uid for run in since for uid in self.oracle.snapshots[run].must}
        absent = self.oracle.owed - self.readable() - held - self.oracle.listed
        absent &= self.oracle.saved | (self.oracle.noted if newest else set())
        for run in since:
            if absent & self.oracle.snapshots[run].may:  # it came while that was made: whether it is in there is seen
                absent -= self.oracle.sound(self.call("restored", kept[run]["id"]).get("held", {}))
        if absent:
            good, said, answer = self.program("restore", "--dry-run")
            absent -= self.lists(said.get("resend", [])) if good else set()
            self.require("it cannot be read, and is on no list of what to send again", absent, answer)

    # --- devices and people -------------------------------------------------------------------------
    def send(self, images: list[list[int]]) -> None:
        """What is acknowledged can be read from then on."""
        good = set()
        for one in self.call("store", images):
            self.oracle.digest.setdefault(one["uid"], one["digest"])
            if one["status"] == 0:
                good.add(one["uid"])
            else:
                RUN.outcomes[f"store {one['status']:#x}"] += 1
        self.oracle.told |= good
        self.oracle.listed -= good
        self.oracle.accepted -= good
        self.require("a device was told success, and the image cannot be read", good - self.readable())

    def new(self, study: int) -> list[int]:
        self.number += 1
        return [study, self.number, 0]

    def store(self, study: int, count: int) -> None:
        self.send([self.new(study) for _ in range(count)])

    def send_again(self, number: int) -> None:
        """What is on the list, what a device cannot find any more, and one more."""
        wanted = self.oracle.listed | (self.oracle.told - self.readable())
        wanted |= {self.pick(self.oracle.digest, number)} - {""}
        self.send([[*map(int, uid.split(".")[-3::2]), 0] for uid in sorted(wanted)])

    def send_other(self, number: int) -> None:
        """Other pixels under the UIDs of an image that is there: the first one stays."""
        uid = self.pick(self.readable(), number)
        if uid:
            self.send([[*map(int, uid.split(".")[-3::2]), 1]])

    def delete(self, number: int) -> None:
        """A person deletes an image in Orthanc."""
        self.deleted(self.pick(self.found(), number))

    def deleted(self, uid: str) -> None:
        if uid and self.call("delete", uid) == 200:
            for told in (self.oracle.told, self.oracle.listed, self.oracle.accepted):
                told.discard(uid)

    # --- faults ---------------------------------------------------------------------------------------
    def harm(self, how: str, number: int) -> None:
        """A file is not what it was."""
        self.call("harm", self.pick(self.found(), number), how)
        self.harmed = True

    def lose_index(self) -> None:
        self.call("lose_index")
        self.doubt.add(NO_INDEX)

    def clone(self) -> None:
        """The machine as a virtual machine's snapshot has it."""
        self.cloned, self.clone_runs = self.readable(), len(self.oracle.snapshots)
        self.call("clone")

    def compress(self) -> None:
        self.compressed = not self.compressed
        self.call("compress", self.compressed)

    def delete_changes(self) -> None:
        """As gateways do that poll."""
        self.call("delete_changes")

    def wrong_clock(self, what: str) -> None:
        """The clock is more than a year ahead while this runs."""
        if what == "run":
            self.back_up(days=400)
            self.doubt.add("the clock was wrong")
        else:
            self.note(days=400)

    # --- backups --------------------------------------------------------------------------------------
    def backup(self) -> None:
        self.back_up()

    def back_up(self, days: int = 0) -> None:
        """Success is said only where everything that is owed is in a proven snapshot."""
        found = self.found()
        sound, wanted = self.oracle.sound(found), self.oracle.owed - self.oracle.listed
        healthy = sound == {*found} and not wanted - sound and not self.doubt
        good, said, answer = self.program("run", days=days)
        self.offered = ""
        if good:
            self.remember(said["run"], True, sound, sound)
        else:
            kept = self.made(sound, sound)
            self.offered = [*kept][-1] if "orthanc-backup accept" in answer["errors"] else ""
        if good:
            self.require("success is said of a backup without images that are owed", wanted - sound, said)
            self.require("success is said of a backup with images that cannot be read", {*found} - sound, said)
            self.require("a clone backs up into this archive, and nobody says so", self.doubt & {CLONE}, said)
            self.doubt.clear()
        self.require("a backup is refused though nothing is wrong", healthy and not good, answer)

    def busy_backup(self, moment: int, what: str, number: int) -> None:
        """Somebody deletes an image, or stores one, while a backup is made."""
        found = self.found()
        sound, wanted = self.oracle.sound(found), self.oracle.owed - self.oracle.listed
        uid = self.pick(found, number)
        changed = self.new(1) if what == "store" else uid
        if not changed:
            return
        answer = self.call("during", moment / 100, what, changed)
        if what == "store":
            (one,) = answer["stored"]
            uid = one["uid"]
            self.oracle.digest.setdefault(uid, one["digest"])
            if one["status"] == 0:
                self.oracle.told.add(uid)
        elif answer["deleted"] == 200:
            for told in (self.oracle.told, self.oracle.listed, self.oracle.accepted):
                told.discard(uid)
        self.made(sound - {uid}, sound | {uid} if what == "store" or uid in sound else sound)
        if answer["status"] == 0:
            self.require("success is said of a backup without images that are owed", wanted - sound - {uid}, answer)
            self.require("a clone backs up into this archive, and nobody says so", self.doubt & {CLONE}, answer)
            self.doubt.clear()
        elif sound == {*found} and not wanted - sound and not self.doubt:
            self.require("a backup is refused though somebody only works", True, answer)

    def accept(self) -> None:
        """A person says that the newest snapshot of this machine is as it should be: what it lacks is given up."""
        kept = self.kept()
        own = [run for run in self.oracle.snapshots if run in kept and run not in self.oracle.foreign]
        if not own or kept[own[-1]]["proven"]:
            return
        must = self.oracle.snapshots[own[-1]].must
        good, _said, answer = self.program("accept", kept[own[-1]]["id"])
        self.require("a person cannot accept what a backup offered", self.offered == own[-1] and not good, answer)
        if good:
            self.oracle.accepted |= self.oracle.owed - must - self.readable()
            self.doubt.clear()

    def killed_backup(self, moment: int) -> None:
        sound = self.readable()
        self.call("killed", moment / 100)
        self.made(sound, sound)

    def ledger(self) -> None:
        self.note()

    def note(self, days: int = 0) -> None:
        good, _said, answer = self.program("ledger", days=days)
        self.require("the ledger fails", not good, answer)
        self.oracle.noted |= self.oracle.told & self.readable()

    def clone_backs_up(self) -> None:
        """The copy of the machine is started for a test."""
        assert self.cloned is not None
        # twice in a row it is the only one
        second = not {*[*self.oracle.snapshots][self.clone_runs :]} <= self.oracle.foreign
        answer = self.call("in_clone", "run")
        self.made(self.cloned, self.cloned, foreign=True)
        if answer["status"] == 0:
            self.require("a clone backs up into the archive of the other, and nobody says so", second, answer)
            self.doubt.add(CLONE)
        self.doubt.add("a clone tried to back up")

    def check(self) -> None:
        """Old snapshots go here."""
        good, said, answer = self.program("check")
        kept = self.kept()
        newest = self.oracle.newest(kept)
        if good:
            shown = next((run for run in kept if kept[run]["id"] == said["snapshot"]), "")
            other = newest and shown != newest
            self.require("the check says success of another snapshot than the newest", other, kept, said)
        elif newest and not self.doubt and not self.harmed:
            self.require("a check fails though nothing is wrong", True, answer)
        self.nothing_is_lost(kept)

    # --- the way back -----------------------------------------------------------------------------------
    def restore_elsewhere(self, number: int) -> None:
        kept = self.kept()
        run = self.pick([run for run in kept if kept[run]["proven"]], number)
        if run:
            self.restores(run, kept[run]["id"])

    def restore(self, which: str, number: int) -> None:
        """In the place of what is there."""
        kept, before = self.kept(), self.readable()
        some = [run for run in kept if kept[run]["proven"] == (which == "one")]
        options = []
        if which != "latest":
            if not some:
                return
            options = ["--snapshot", kept[self.pick(some, number)]["id"], *(["--incomplete"] * (which != "one"))]
        good, said, answer = self.program("restore", *options)
        after, newest = self.readable(), self.oracle.newest(kept)
        if not good:
            self.require("a restore was refused, and what was there is not", before - after, answer)
            sure = which == "one" or (which == "latest" and newest and not self.doubt - {NO_INDEX})
            self.require("a restore of what is proven is refused", sure, answer)
            return
        run = next(run for run in kept if kept[run]["id"] == said["snapshot"])
        if kept[run]["proven"]:
            self.require("a restore says success without images", {*self.oracle.snapshots[run].must} - after, answer)
        self.oracle.listed |= self.lists(said["resend"]) & self.oracle.told - after
        gone = (before | self.oracle.noted) & self.oracle.owed - after - self.oracle.listed
        gone -= self.oracle.snapshots[newest].must if newest else set()
        self.require("a restore says success, and images are on no list of what to send again", gone, answer)
        self.oracle.put_in_place(run)
        self.doubt.discard(NO_INDEX)

    def restore_study(self, number: int) -> None:
        """One study alone; nothing else changes."""
        uid, before = self.pick(self.oracle.digest, number), self.readable()
        if uid:
            good, said, answer = self.program("restore", "--study", study_of(uid))
            after, kept = self.readable(), self.kept()
            self.require("the way back of a study took images away", before - after, answer)
            if good:
                run = next(run for run in kept if kept[run]["id"] == said["snapshot"])
                wanted = {one for one in self.oracle.snapshots[run].must if study_of(one) == study_of(uid)}
                self.require("a study is said to be back, and cannot be read", wanted - after, answer)

    def reconcile(self, repair: bool) -> None:
        """Success is said only where all that lies there can be read; and no repair takes away what could be."""
        self.call("age")
        lie, before = self.call("lying"), self.readable()
        lying = {uid for uid in self.oracle.told if self.oracle.digest[uid] in lie}
        good, said, answer = self.program("reconcile", *(["--repair"] if repair else []))
        found = self.found()
        sound = self.oracle.sound(found)
        if good:
            self.require("reconcile says success of what cannot be read", {*found} - sound, said)
            self.require("reconcile says success, and images that lie there cannot be read", lying - sound, said)
        elif "left" not in said:
            self.require("reconcile fails", True, answer)
        self.require("reconcile took away what could be read", before - sound, said)
        lie = self.call("lying")
        still = {uid for uid in lying if self.oracle.digest[uid] in lie}
        self.require("a repair put away the only good copy", lying - still - sound, said)


# --- sequences ---------------------------------------------------------------------------------------
Draw = Callable[[Random], tuple[Any, ...]]


def nothing(_chance: Random) -> tuple[Any, ...]:
    return ()


def number(chance: Random) -> tuple[Any, ...]:
    return (chance.randrange(64),)


def moment(chance: Random) -> tuple[Any, ...]:
    return (chance.randrange(101),)


# how often, and with which arguments
RULES: dict[str, tuple[int, Draw]] = {
    "store": (6, lambda chance: (chance.randint(1, 4), chance.randint(1, 3))),
    "send_again": (4, number),
    "send_other": (1, number),
    "delete": (3, number),
    "harm": (7, lambda chance: (chance.choice(["lose", "alter", "truncate"]), chance.randrange(64))),
    "lose_index": (3, nothing),
    "clone": (2, nothing),
    "clone_backs_up": (5, nothing),  # where there is one
    "delete_changes": (1, nothing),
    "compress": (1, nothing),
    "wrong_clock": (2, lambda chance: (chance.choice(["run", "ledger"]),)),
    "backup": (9, nothing),
    "accept": (4, nothing),
    "busy_backup": (2, lambda chance: (*moment(chance), chance.choice(["delete", "store"]), chance.randrange(64))),
    "killed_backup": (2, moment),
    "ledger": (4, nothing),
    "check": (4, nothing),
    "restore_elsewhere": (1, number),
    "restore": (5, lambda chance: (chance.choice(["latest", "latest", "one", "incomplete"]), chance.randrange(64))),
    "restore_study": (2, number),
    "reconcile": (5, lambda chance: (chance.random() < 0.6,)),
}


# sequences that ended in a violation once, with what they can do without left out: they are played first
FOUND: list[list[list[Any]]] = [
    [["store", 1, 2], ["backup"], ["harm", "truncate", 0], ["send_again", 0]],
    [
        ["store", 1, 2],
        ["backup"],
        ["lose_index"],
        ["backup"],
        ["accept"],
        ["backup"],
        ["backup"],
        ["backup"],
        ["check"],
    ],
    [["store", 1, 2], ["backup"], ["clone"], ["store", 3, 1], ["backup"], ["clone_backs_up"], ["backup"], ["check"]],
    [["store", 1, 2], ["harm", "alter", 0], ["backup"]],
    [["store", 1, 2], ["backup"], ["harm", "alter", 0], ["lose_index"], ["reconcile", True]],
    # `compress` starts Orthanc anew, and the device looks at what it has before it sends again
    [["store", 1, 2], ["harm", "truncate", 0], ["compress"], ["send_again", 0]],
]


def drawn(seed: int, number: int) -> list[list[Any]]:
    """The steps of a sequence."""
    chance, steps = Random(f"{seed} {number}"), [["store", 1, 2], ["store", 2, 2]]
    steps += [["backup"]] if chance.random() < 0.7 else []
    while len(steps) < STEPS:
        rules = {name: weight for name, (weight, _) in RULES.items()}
        if "clone" not in [name for name, *_ in steps]:
            del rules["clone_backs_up"]
        (name,) = chance.choices([*rules], [*rules.values()])
        steps.append([name, *RULES[name][1](chance)])
    return steps


def play(steps: list[list[Any]]) -> dict[str, Any] | None:
    """The steps on the machine; the violation that ended them."""
    model = Model()
    try:
        for name, *arguments in [*steps, ["end"]]:
            model.step(name, *arguments)
            getattr(model, name)(*arguments)
    except Violation as violation:
        found: dict[str, Any] = violation.args[0]
        print(f"VIOLATION {json.dumps(found, default=sorted)}", flush=True)
        return found
    return None


def shrunk(violation: dict[str, Any]) -> dict[str, Any]:
    """The same violation with as few steps as there can be, when one after the other is left out."""
    for at in reversed(range(len(violation["steps"]) - 1)):
        steps = [step for number, step in enumerate(violation["steps"][:-1]) if number != at]
        again = play(steps)
        if again and again["what"] == violation["what"]:
            violation = again
    return violation


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("machine")
    parser.add_argument("--sequences", type=int, default=15)
    parser.add_argument("--first", type=int, default=1, help="the number of the first sequence")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="after which no sequence begins any more")
    parser.add_argument("--go-on", action="store_true", help="a violation ends its sequence alone")
    parser.add_argument("--replay", type=json.loads, help="the steps of one sequence, as JSON")
    parser.add_argument("--shrink", action="store_true")
    given = parser.parse_args()
    RUN.agent = Agent(given.machine)
    begin = time.monotonic()
    prepared = RUN.agent.call("prepare")
    RUN.agent.call("cheap", make_cheap(prepared["key"], prepared["password"]))
    violations, sequences = [], 0
    last = given.first + given.sequences
    plans = {f"seed {given.seed}, {number}": drawn(given.seed, number) for number in range(given.first, last)}
    if given.first == 1:
        plans = {f"found {number}": steps for number, steps in enumerate(FOUND, 1)} | plans
    if given.replay:
        plans = {"replay": given.replay}
    for sequence, steps in plans.items():
        if time.monotonic() - begin > 60 * given.minutes:
            break
        print(f"sequence {sequence}", flush=True)
        found = play(steps)
        sequences += 1
        if found:
            violations.append({"sequence": sequence, **(shrunk(found) if given.shrink else found)})
            if not given.go_on:
                break
    result = {
        "machine": given.machine, "seed": given.seed, "sequences": sequences, "steps": RUN.steps,
        "outcomes": RUN.outcomes, "violations": violations, "seconds": round(time.monotonic() - begin),
        "cost": {name: round(seconds / RUN.agent.calls[name], 2) for name, seconds in RUN.agent.seconds.items()},
    }  # fmt: skip
    print(json.dumps(result, default=sorted), flush=True)
    return int(bool(violations))


if __name__ == "__main__":
    sys.exit(main())
