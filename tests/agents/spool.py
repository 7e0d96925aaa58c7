#!/usr/bin/env python3
"""What the scenario `worklist` does on its machines: applications drop files, good and hostile; the spool is looked
at; the gate is killed; a scanner asks.

Standard library alone. Each command reads a JSON object from standard input and tells one on standard output.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SERVED = Path("/var/lib/orthanc/worklists")
INCOMING, QUARANTINE = SERVED / ".spool/incoming", SERVED / ".spool/quarantine"
DROP = Path("/srv/worklists/incoming")
Plan = dict[str, Any]


# --- an application ----------------------------------------------------------------------------
def write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)


def zeros(path: Path, size: int, sparse: bool) -> None:
    with path.open("xb") as file:
        if sparse:
            file.truncate(size)
        else:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))


def pieces(content: bytes, number: int) -> list[bytes]:
    size = -(-len(content) // number)
    return [content[start : start + size] for start in range(0, len(content), size)]


def make(step: Plan) -> None:
    """One file as `how` says; its name holds a token, by which it is found again."""
    path, part = DROP / step["name"], DROP / f".{step['token']}.part"
    content = base64.b64decode(step.get("data", ""))
    how = step["how"]
    if how == "renamed":
        write(part, content)
        part.chmod(step.get("mode", 0o600))
        part.rename(path)
    elif how == "plain":
        write(path, content)
    elif how == "linked":  # the second name stays: what is behind it can be written again
        write(part, content)
        os.link(part, path)
    elif how == "symlink":
        path.symlink_to(step["target"])
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "socket":
        # a socket's path is short: it is made under another name
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(part))
        part.rename(path)
    elif how == "directory":
        (path / "more").mkdir(parents=True)
        write(path / "more" / "inside.wl", content)
    elif how == "zeros":
        zeros(path, step["size"], step["sparse"])
    elif how == "held":
        with path.open("xb", buffering=0) as file:
            for piece in pieces(content, 20):
                file.write(piece)
                time.sleep(step["seconds"] / 20)
    elif how == "rewritten":  # whole and good twice, and open from the first to the second
        with path.open("xb", buffering=0) as file:
            file.write(base64.b64decode(step["draft"]))
            time.sleep(step["seconds"])
            file.seek(0)
            file.truncate()
            file.write(content)
    elif how == "appended":
        for piece in pieces(content, 5):
            with path.open("ab") as file:
                file.write(piece)
            time.sleep(step["seconds"] / 5)
    else:
        raise ValueError(how)


def drop(plan: Plan) -> None:
    """All files of the plan within `seconds`; those that take long are written beside the others."""
    slow = [threading.Thread(target=make, args=[step]) for step in plan["files"] if "seconds" in step]
    for thread in slow:
        thread.start()
    quick = [step for step in plan["files"] if "seconds" not in step]
    begin = time.monotonic()
    for number, step in enumerate(quick):
        make(step)
        ahead = begin + plan["seconds"] * number / len(quick) - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
    for thread in slow:
        thread.join()
    print(json.dumps({"made": len(quick) + len(slow)}))


# --- the spool ---------------------------------------------------------------------------------
def kind(path: Path) -> str:
    mode = path.lstat().st_mode
    kinds = {"file": stat.S_ISREG, "directory": stat.S_ISDIR, "symlink": stat.S_ISLNK, "fifo": stat.S_ISFIFO}
    return next((name for name, is_it in kinds.items() if is_it(mode)), "other")


def listed(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def look() -> None:
    served = {}
    for name in listed(SERVED):
        path = SERVED / name
        if name != ".spool":
            info = path.lstat()
            content = base64.b64encode(path.read_bytes()).decode() if kind(path) == "file" else ""
            served[name] = {
                **{"mode": stat.S_IMODE(info.st_mode), "owner": info.st_uid, "links": info.st_nlink},
                **{"kind": kind(path), "data": content},
            }
    quarantine = {}
    for name in listed(QUARANTINE):
        path = QUARANTINE / name
        reason = path.with_name(f"{name}.reason")
        if not name.endswith(".reason"):
            quarantine[name] = {
                **{"kind": kind(path), "size": path.lstat().st_size},
                "reason": reason.read_text(errors="replace") if reason.exists() else None,
                "inside": len(list(path.rglob("*"))) if kind(path) == "directory" else 0,
            }
    reasons = [name for name in listed(QUARANTINE) if name.endswith(".reason")]
    print(json.dumps({"served": served, "waiting": listed(INCOMING), "quarantine": quarantine, "reasons": reasons}))


def unsettled() -> bool:
    leftover = [name for name in os.listdir(SERVED) if not name.endswith(".wl") and name != ".spool"]
    return bool(leftover) or any(name.endswith(".wl") for name in os.listdir(INCOMING))


def settle(limit: float) -> None:
    """Until nothing waits that is finished, and the gate has nothing half done."""
    end = time.monotonic() + limit
    while unsettled():
        if time.monotonic() > end:
            sys.exit(f"still there after {limit} s: {listed(INCOMING)[:9]} {listed(SERVED)[:3]}")
        time.sleep(0.05)


# --- kill -9 -----------------------------------------------------------------------------------
def gate() -> int:
    show = ["systemctl", "show", "--property", "MainPID", "--value", "orthanc-worklist.service"]
    return int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)


def handled() -> int:
    held = sum(not name.endswith(".reason") for name in os.listdir(QUARANTINE))
    return held + sum(name.endswith(".wl") for name in os.listdir(SERVED))


def kill(plan: Plan) -> None:
    """`kills` times, when the gate is through with a random number of files and at a random moment of the next ones.
    The application, who is `user`, goes on as the gate does: 40 files are always on their way."""
    files, choose = plan["files"], random.Random(plan["seed"])
    before, ahead = handled(), 40
    moments = sorted(choose.choices(range(1, len(files) - 10), k=plan["kills"]))
    arriving, go = os.pipe()
    application = os.fork()
    if application == 0:
        os.close(go)
        os.dup2(arriving, 0)
        os.execvp("runuser", ["runuser", "-u", plan["user"], "--", "python3", __file__, "fed", plan["path"]])
    os.close(arriving)
    killed: list[int] = []
    sent, end = 0, time.monotonic() + plan["limit"]
    while len(killed) < len(moments) or sent < len(files):
        done = handled() - before
        more = min(done + ahead, len(files)) - sent
        if more > 0:
            os.write(go, b"." * more)
            sent += more
        if len(killed) < len(moments) and done >= moments[len(killed)]:
            pid = gate()
            if pid and pid not in killed:
                time.sleep(choose.uniform(0, 0.05))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        if time.monotonic() > end:
            sys.exit(f"{len(killed)} kills, {sent} files sent, {done} handled")
        time.sleep(0.001)
    os.close(go)
    print(json.dumps({"killed": killed, "application": os.waitstatus_to_exitcode(os.waitpid(application, 0)[1])}))


def fed(path: str) -> None:
    """The application: a file of the plan for each byte on standard input."""
    for step in json.loads(Path(path).read_text())["files"]:
        if not os.read(0, 1):
            sys.exit("no more was wanted")
        make(step)


# --- a scanner ---------------------------------------------------------------------------------
def ask(plan: Plan) -> None:
    """The same query `times` times, or until the file `until` is there and it was asked `least` times: who was in each
    answer, and how long it took. Quiet ones are for the time alone."""
    told: list[dict[str, Any]] = []
    title = ["-aet", plan["aet"], "-aec", "ORTHANC", plan["address"], "4242"]
    command = ["findscu", "-W", "-q" if plan.get("quiet") else "-v", "-to", "10", *title, plan["query"]]
    ended = Path(plan.get("until", "/nowhere"))
    while len(told) < plan.get("times", 1_000_000) and (len(told) < plan.get("least", 0) or not ended.exists()):
        begin = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        said = done.stdout.decode(errors="replace")
        told.append(
            {
                "seconds": time.monotonic() - begin,
                "code": done.returncode,
                "success": "Received Final Find Response (Success)" in said,
                "patients": sorted(set(re.findall(r"\(0010,0020\) LO \[([^\]]*?) *\]", said))),
            }
        )
    print(json.dumps(told))


if __name__ == "__main__":
    chosen = sys.argv[1]
    if chosen == "look":
        look()
    elif chosen == "settle":
        settle(float(sys.argv[2]))
    elif chosen == "fed":
        fed(sys.argv[2])
    else:
        {"drop": drop, "kill": kill, "ask": ask}[chosen](json.load(sys.stdin))
