"""What the backup's program keeps in mind between two steps: of runs that were killed, of copies, of other disks."""

from __future__ import annotations

import socket
import threading
from dataclasses import asdict, replace
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from server.backup import history, retention
from server.backup.history import Content, Past
from server.backup.listing import choose_snapshot, identify_snapshot, read_past, save_past
from server.backup.manifest import Proof, keep_content
from server.backup.restore_check import apply_retention
from server.backup.run import accept_snapshot, make_backup, take_complete_snapshot
from server.backup.settings import stamp_tomorrow
from server.backup.state import note_repository, read_state, write_state
from server.core.errors import Refused
from server.orthanc.api import Account, Api
from test_backup import make_settings, replace_everywhere

ARCHIVE = "0123456789abcdef"
GOOD, LATE = "a" * 16, "b" * 16


class Repository:
    """The list of an archive's snapshots, and what is done to their tags."""

    def __init__(self, own: Any, patch: pytest.MonkeyPatch) -> None:
        self.found: list[dict[str, Any]] = []
        self.calls: list[tuple[str, ...]] = []
        (own.storage / ".orthanc-archive").write_text(f"{ARCHIVE}\n")
        self.id = "first"
        self.manifests: dict[str, dict[str, Any]] = {}
        replace_everywhere(patch, "list_snapshots", self.list)
        replace_everywhere(patch, "read_repository_id", lambda _settings: self.id)
        self.answer(patch)

    def answer(self, patch: pytest.MonkeyPatch) -> None:
        """Takes every call of restic from now on."""
        replace_everywhere(patch, "call_restic", lambda _settings, *arguments: self.calls.append(arguments))

    def list(self, settings: Any, *tags: str, any_host: bool = False) -> list[dict[str, Any]]:
        wanted = [{*tag.split(",")} for tag in tags]
        there = [one for one in self.found if any_host or one["hostname"] == settings.host]
        return [one for one in there if any({*one["tags"]} >= tag for tag in wanted)]

    def add(self, token: str, tag: str = "orthanc", identity: str = "", day: int = 1, host: str = "clinic") -> None:
        name = identity or f"id-{token[:6]}"
        tags = [tag, f"run={token}", f"archive={ARCHIVE}"]
        time = f"2026-01-{day:02}T00:00:00Z"
        facts = {"id": name, "short_id": token[:8], "original": token, "time": time, "tags": tags, "hostname": host}
        self.found.append(facts)


@pytest.fixture
def own(tmp_path: Path) -> Any:
    found = make_settings(tmp_path)
    found.staging.mkdir()
    return found


@pytest.fixture
def repository(own: Any, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository(own, monkeypatch)


def attempt(
    own: Any, repository: Repository, patch: pytest.MonkeyPatch, *proofs: Any, run: str = "1" * 16, day: int = 2
) -> tuple[list[str], Any]:
    """A run's tries, each with what its proof says; the problems, and its result."""
    left = [*proofs]
    result: dict[str, Any] = {"run": run, "moment": "20260102T000000.000", "snapshot": "new"}

    def proof(*_: Any) -> tuple[list[str], int]:
        said = left.pop(0)
        found: tuple[list[str], int] = said() if callable(said) else said
        return found

    def taken(_settings: Any, manifest: dict[str, Any], result: dict[str, Any], why: str, _parent: str) -> None:
        repository.add(result["run"], "unproven" if why else "orthanc", day=day, host=own.host)
        repository.manifests[result["run"]] = {**manifest, "archive": ARCHIVE}
        lineages.append(manifest["lineage"])

    def known(_settings: Any, one: dict[str, Any]) -> Content:
        manifest = repository.manifests.get(identify_snapshot(one).token, {})
        return Content({}, 150, 250, manifest.get("lineage", {"line": None}))

    lineages: list[Any] = []
    result["lineages"] = lineages
    replace_everywhere(patch, "copy_index", lambda *_: {})
    replace_everywhere(patch, "list_attachments", lambda *_: [])
    replace_everywhere(patch, "read_present", lambda *_: history.Present({}, 200, 300, 0, 0))
    replace_everywhere(patch, "build_manifest", lambda *_args, **more: {**more, "counts": {"last_change": 300}})
    replace_everywhere(patch, "read_content", known)
    replace_everywhere(patch, "take_snapshot", taken)
    replace_everywhere(patch, "verify_snapshot", proof)
    return take_complete_snapshot(own, result, [], False), result


@pytest.mark.parametrize("append_only", [False, True])
def test_a_try_during_which_somebody_deleted_is_no_other_machine_s(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch, append_only: bool
) -> None:
    own = replace(own, append_only=append_only)
    assert attempt(own, repository, monkeypatch, ([], 3), ([], 0))[0] == []
    assert len(repository.found) == 2  # the first try stays: here nothing forgets it
    past = read_past(own)
    assert history.find_strangers(map(identify_snapshot, repository.found), past) == []
    assert [history.is_proven(identify_snapshot(one), past) for one in repository.found] == [False, True]


def test_disks_may_take_turns_as_the_repository(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.add(GOOD)
    first = [*repository.found]
    save_past(own, Past(ARCHIVE, ours=[GOOD]))
    repository.found = []
    assert attempt(own, repository, monkeypatch, ([], 0))[0] == []
    assert history.find_strangers(map(identify_snapshot, first), read_past(own)) == []


def back_up(own: Any, repository: Repository, patch: pytest.MonkeyPatch, day: int) -> str:
    """What a run says; a success is noted as make_backup does it."""
    problems, _result = attempt(own, repository, patch, ([], 0), run=f"{day:x}".ljust(16, "0"), day=day)
    if not problems:
        write_state(own, "backup", {"last_success_epoch": 1, "last_repository": own.repository})
    return "\n".join(problems)


@pytest.mark.parametrize("append_only", [False, True])
def test_a_repository_whose_snapshots_are_gone_is_no_success(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch, append_only: bool
) -> None:
    """Somebody removed them; it stays so each day, until a person decides."""
    own = replace(own, append_only=append_only)
    assert back_up(own, repository, monkeypatch, 1) == ""
    assert back_up(own, repository, monkeypatch, 2) == ""
    repository.found = []
    for day in (3, 4):
        said = back_up(own, repository, monkeypatch, day)
        assert "The repository has none of the snapshots that this machine made" in said
        assert "orthanc-backup accept new" in said
    there = [identify_snapshot(one) for one in repository.found]
    assert [history.is_proven(one, read_past(own)) for one in there] == [False, False]
    save_past(own, history.record_accepted(read_past(own), there[-1], there, {}))
    assert back_up(own, repository, monkeypatch, 5) == ""
    assert back_up(own, repository, monkeypatch, 6) == ""


def test_an_empty_repository_in_the_place_of_another_is_no_success(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert back_up(own, repository, monkeypatch, 1) == ""
    first, repository.found, repository.id = repository.found, [], "second"
    assert "none of the snapshots that this machine made" in back_up(own, repository, monkeypatch, 2)
    # the same where an earlier release noted no id
    write_state(own, "repositories", {})
    assert "none of the snapshots that this machine made" in back_up(own, repository, monkeypatch, 3)
    # the right one is there again
    repository.found, repository.id = first, "first"
    assert back_up(own, repository, monkeypatch, 4) == ""


def test_snapshots_under_a_former_name_are_not_gone(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody renames the machine in the inventory: the run says under which name its snapshots are."""
    assert back_up(own, repository, monkeypatch, 1) == ""
    renamed = replace(own, host="us-clinic")
    for day in (2, 3):
        said = back_up(renamed, repository, monkeypatch, day)
        assert "The repository has snapshots of this machine under the name clinic, and none under us-clinic" in said
        assert "set orthanc_backup_host to clinic and deploy" in said
        assert "orthanc-backup accept new" in said
    assert back_up(own, repository, monkeypatch, 4) == ""  # the former name again
    there = [identify_snapshot(one) for one in repository.list(renamed, "unproven")]
    save_past(own, history.record_accepted(read_past(own), there[-1], there, {}))
    assert back_up(renamed, repository, monkeypatch, 5) == ""


@pytest.mark.parametrize("wanted", ["latest", GOOD[:8]])
def test_a_restore_on_a_machine_with_another_name_says_which_names_there_are(
    own: Any, repository: Repository, wanted: str
) -> None:
    """A replacement machine got a new name, so that even the list is empty."""
    (own.storage / ".orthanc-archive").unlink()
    repository.add(GOOD)
    repository.add(LATE, host="north")
    with pytest.raises(Refused) as refused:
        choose_snapshot(replace(own, host="us-clinic"), wanted)
    assert "The repository has no snapshot of us-clinic, but those of clinic, north. Remedy: " in str(refused.value)
    assert "set orthanc_backup_host to that name" in str(refused.value)
    with pytest.raises(Refused, match="No snapshot of clinic matches 'cccc'"):
        choose_snapshot(own, "cccc")


def test_what_is_no_loss_of_snapshots(own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    assert back_up(own, repository, monkeypatch, 1) == ""  # the first
    write_state(own, "repositories", {})  # noted by no earlier release
    assert back_up(own, repository, monkeypatch, 2) == ""
    repository.found = repository.found[-1:]  # retention, or the machine that may forget
    assert back_up(own, repository, monkeypatch, 3) == ""
    # a new disk, made by orthanc-backup init --new; then they take turns
    disks = {"first": repository.found, "second": []}
    write_state(own, "backup", {**read_state(own, "backup"), "last_repository": ""})
    note_repository(own, "second", "")
    for day, name in enumerate(("second", "first", "second", "first"), 4):
        repository.id, repository.found = name, disks[name]
        assert back_up(own, repository, monkeypatch, day) == ""
    # of a release that noted no ids the other disk has snapshots
    write_state(own, "repositories", {"first": ARCHIVE})
    repository.id, repository.found = "second", disks["second"]
    assert back_up(own, repository, monkeypatch, 8) == ""
    # another address, empty and not made here
    own = replace(own, repository="/mnt/other")
    repository.id, repository.found = "third", []
    assert back_up(own, repository, monkeypatch, 9) == ""
    # the same with the notes of a release that noted no address
    write_state(own, "backup", {"last_success_epoch": 1})
    repository.id, repository.found = "fourth", []
    assert back_up(own, repository, monkeypatch, 10) == ""
    # a new archive beside the snapshots of another one
    (own.storage / ".orthanc-archive").write_text("f" * 16 + "\n")
    repository.found = []
    assert back_up(own, repository, monkeypatch, 11) == ""


@pytest.mark.parametrize("how", ["restored", "only the system disk was lost"])
def test_disks_go_on_to_take_turns_on_a_new_machine(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    disks: dict[str, Any] = {"first": [], "second": []}

    def use(name: str) -> None:
        repository.id, repository.found = name, disks[name]

    for day, name in enumerate(("first", "second", "first", "second"), 1):
        use(name)
        write_state(own, "backup", {})
        assert back_up(own, repository, monkeypatch, day) == ""
    use("first")
    write_state(own, "repositories", {})
    write_state(own, "history", {})
    there = [identify_snapshot(one) for one in repository.found]
    if how == "restored":
        save_past(own, history.record_restored(repository.manifests[there[-1].token], there[-1], there, Past(), "new"))
    manifests = repository.manifests
    replace_everywhere(monkeypatch, "read_manifest", lambda _, one: (manifests[identify_snapshot(one).token], []))
    assert back_up(own, repository, monkeypatch, 5) == ""
    use("second")
    said = back_up(own, repository, monkeypatch, 6)
    # what that disk got after the snapshot that was restored is newer than this machine's images
    assert "Another machine has added 1 snapshots (40000000 of 20260104T000000)" in said
    disks["second"][:] = disks["second"][:1]  # as if the machine had died a day before
    use("second")
    assert back_up(own, repository, monkeypatch, 7) == ""


@pytest.mark.parametrize("whole", [True, False])
def test_a_restore_begins_a_line_on_every_disk_whichever_is_used_first(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """What was given after the snapshot that was restored is in no line of the restored index: nobody deleted it."""
    disks: dict[str, Any] = {"first": [], "second": []}

    def run(day: int, name: str) -> Any:
        repository.id, repository.found = name, disks[name]
        write_state(own, "backup", {})
        assert back_up(own, repository, monkeypatch, day) == ""
        return repository.manifests[identify_snapshot(disks[name][-1]).token]["lineage"]

    first = run(1, "first")
    assert run(2, "second") != first
    assert run(3, "first") == first
    there = [identify_snapshot(one) for one in disks["first"]]
    manifest = {**repository.manifests[there[0].token], "sequence": {"resources": 100}}
    save_past(own, history.record_restored(manifest, there[0], there, read_past(own), "restored", whole))
    line = {**(dict.fromkeys(first, 100) if whole else {}), "restored": None}
    assert [run(day, name) for day, name in enumerate(("second", "first", "second", "first"), 4)] == [line] * 4
    # what of the former line was given later than the restored snapshot stays, though no kept one holds it
    late, image = "late", "image"
    contents = {late: Content({image: 104}, 105, 105, first), "kept": Content({}, 107, 107, line)}
    old = [retention.Dated(late, late, datetime.now(timezone.utc))]
    assert retention.protect_images(old, ["kept"], contents.get, proven=True).held == {late: 1}


def test_a_first_run_that_was_killed_at_its_end_is_no_loss(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot was proven, and the next run marks it."""
    assert back_up(own, repository, monkeypatch, 1) == ""
    repository.found[0]["tags"][0] = "unproven"
    assert back_up(own, repository, monkeypatch, 2) == ""


def test_a_copy_that_backs_up_at_the_same_minute_is_noticed(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.add(GOOD)
    save_past(own, Past(ARCHIVE, ours=[GOOD]))

    def meanwhile() -> tuple[list[str], int]:
        repository.add(LATE, identity="strange")
        return [], 0

    problems, result = attempt(own, repository, monkeypatch, meanwhile, ([], 0))
    assert "Another machine has added 1 snapshots" in problems[0]
    past = read_past(own)
    proven = [history.is_proven(identify_snapshot(one), past) for one in repository.found]
    assert proven == [True, False, True, False]  # the other machine's is not judged here
    # what is given from now on is not what the copy gives
    assert result["lineages"] == [{"line": None}, {"line": 150, result["run"]: None}]


def test_of_two_runs_that_were_killed_each_snapshot_is_disowned(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = {"result": "running", "run": GOOD}
    for token in (GOOD, LATE):
        repository.add(token)

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        killed.update(read_state(own, "backup"))
        raise Killed

    write_state(own, "backup", killed)
    replace_everywhere(monkeypatch, "require_same_archive", kill)
    monkeypatch.setattr("secrets.token_hex", lambda _: LATE)
    for _ in range(2):
        with pytest.raises(Killed):
            make_backup(own, False, False)
        write_state(own, "backup", killed)  # as it was on the disk when kill -9 came
    assert [call[-1] for call in repository.calls] == [f"id-{GOOD[:6]}", f"id-{LATE[:6]}"]


def test_a_restore_check_leaves_what_a_backup_noted_meanwhile(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.add(GOOD)
    save_past(own, Past(ARCHIVE, ours=[GOOD]))

    def forgotten(*_: Any) -> None:
        past = read_past(own)
        past.note_own(LATE)
        past.note_proven(LATE)
        save_past(own, past)

    replace_everywhere(monkeypatch, "forget_snapshots", forgotten)
    replace_everywhere(monkeypatch, "read_content", lambda *_: Content({}, 1, 1, {}))
    apply_retention(own, {})
    past = read_past(own)
    assert (past.ours, past.unproven) == ([GOOD, LATE], [])


def test_a_restore_check_without_the_images_disk_forgets_nothing(own: Any, repository: Repository) -> None:
    before = Past(ARCHIVE, ours=[GOOD], foreign=[LATE])
    save_past(own, before)
    marker = own.storage / ".orthanc-archive"
    marker.rename(own.directory / "away")
    apply_retention(own, {})
    assert read_state(own, "history") == asdict(before)
    assert repository.calls == []


def test_what_only_another_machine_s_snapshot_holds_stays(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both began at the same minute, and gave the same internal ids in one line."""
    own = replace(own, keep={"last": 1})
    tokens = [f"{number:016x}" for number in range(1, 6)]
    for number, token in enumerate((LATE, *tokens), 1):
        repository.add(token, "unproven", day=number)
    repository.add(GOOD, day=20)
    line: Any = {"line": None}
    contents = {token: Content({}, 9, 9, line) for token in (*tokens, GOOD)} | {LATE: Content({"image": 5}, 7, 7, line)}
    replace_everywhere(monkeypatch, "read_content", lambda _settings, one: contents[identify_snapshot(one).token])
    save_past(own, Past(ARCHIVE, ours=[*tokens, GOOD], foreign=[LATE]))
    apply_retention(own, {})
    assert read_past(own).held == {LATE: 1}
    assert all(f"id-{LATE[:6]}" not in call for call in repository.calls)
    # of its own ones this machine knows that the image was deleted
    save_past(own, Past(ARCHIVE, ours=[LATE, *tokens, GOOD]))
    apply_retention(own, {})
    assert any(f"id-{LATE[:6]}" in call for call in repository.calls)


def test_accepting_that_was_interrupted_is_ended_by_the_next_call(
    own: Any, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.add(GOOD, "unproven")
    repository.add(LATE)
    save_past(own, Past(ARCHIVE, ours=[GOOD], unproven=[GOOD]))
    replace_everywhere(
        monkeypatch, "prove_snapshot", lambda *_: Proof(repository.found[0], {"archive": ARCHIVE}, [], set(), [])
    )

    def fails(*_: Any) -> None:
        raise Refused("the network went")

    replace_everywhere(monkeypatch, "call_restic", fails)
    with pytest.raises(Refused, match="the network went"):
        accept_snapshot(own, GOOD, "")
    repository.answer(monkeypatch)
    assert accept_snapshot(own, GOOD, "")["accepted"] == GOOD[:8]
    assert [call[-1] for call in repository.calls] == [f"id-{LATE[:6]}", f"id-{GOOD[:6]}"]
    repository.found[0]["tags"][0] = "orthanc"
    with pytest.raises(Refused, match="is proven"):
        accept_snapshot(own, GOOD, "")


def test_a_mark_that_was_cut_off_leaves_one_snapshot_to_choose(own: Any, repository: Repository) -> None:
    """restic writes a snapshot with its new tags, and removes the old one afterwards."""
    repository.add(GOOD)
    repository.add(GOOD, identity="marked")
    assert choose_snapshot(own, GOOD[:8])["id"] == "marked"


def test_one_of_the_future_is_not_the_newest_where_nothing_is_remembered(own: Any, repository: Repository) -> None:
    repository.add(GOOD)
    repository.add(LATE)
    repository.found[1]["time"] = "2090-01-01T00:00:00Z"
    there = [identify_snapshot(one) for one in repository.found]
    past = history.adopt_snapshots(ARCHIVE, there, stamp_tomorrow())
    newest = history.choose_latest(there, past, stamp_tomorrow())
    assert newest is not None
    assert newest.token == GOOD


def test_orthanc_is_asked_again_after_it_has_ended_a_connection_that_rested(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair fetches from a snapshot between two questions, and Orthanc's KeepAliveTimeout is a second."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            self.close_connection = True  # it says nothing of that

        def finish(self) -> None:
            super().finish()
            self.connection.shutdown(socket.SHUT_RDWR)
            ended.set()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = Api(Account(server.server_address[1], "check", "secret"))
        monkeypatch.setattr("server.orthanc.api.REST_SECONDS", 0)
        for _ in range(3):
            ended.clear()
            assert api.get("/changes?last") == {}
            assert ended.wait(60)
        server.shutdown()


def test_a_backup_and_a_restore_check_may_keep_the_same_content_at_once(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, rename = Content({"image": 1}, 1, 1, {}), Path.rename

    def beside(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        monkeypatch.setattr("os.getpid", lambda: 2)
        keep_content(own, GOOD, content)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", beside)
    keep_content(own, GOOD, content)
    assert [path.name for path in (own.directory / "contents").iterdir()] == [f"{GOOD}.json.gz"]
