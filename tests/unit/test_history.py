"""Decisions about snapshots: whether one goes on from its predecessor, whose it is, and which may go."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.backup import history, retention
from server.backup.history import Content, Past, Present, Snapshot
from server.backup.retention import Dated

A, B, C, D = (letter * 40 for letter in "abcd")
BEFORE = Content({A: 4, B: 8}, 8, 20, {"line": None})


def present(resources: dict[int, str], last: int = 12, change: int = 30, known: int = 2, unknown: int = 0) -> Present:
    return Present(resources, last, change, known, unknown)


def snapshot(token: str, time: str = "20260101T000000", proven: bool = True) -> Snapshot:
    return Snapshot(f"id-{token}", token, time, proven)


# --- a snapshot against its predecessor ----------------------------------------------------------
@pytest.mark.parametrize(
    ("now", "reason", "deleted"),
    [
        (present({4: A, 8: B}), "", 0),
        (present({4: A, 8: B, 12: C}), "", 0),
        (present({4: A}), "", 1),  # deleted
        (present({}), "", 2),
        (present({4: A, 12: B}), "", 0),  # deleted, and sent again
        (present({4: A, 8: B}, last=8, change=20), "", 0),
        (present({}, last=0, change=0), "the last change in the index fell from 20 to 0", 0),
        (present({4: A, 8: B}, last=7), "the last internal id in the index fell from 8 to 7", 0),
        (present({4: A, 8: C}), "1 of 2 images have another internal id", 0),  # a new index that has grown past it
        (present({4: B, 8: A}), "2 of 2 images have another internal id", 0),
        (present({4: A, 7: B}), "1 of 2 images have another internal id", 0),
        (present({4: A, 8: B}, known=0, unknown=1), "the index knows 0 of the 1 image files", 0),
        (present({4: A, 8: B}, known=4, unknown=5), "the index knows 4 of the 9 image files", 0),
        (present({4: A, 8: B}, known=5, unknown=5), "", 0),
        (present({}, known=0, unknown=0), "", 2),
    ],
)
def test_what_is_missing_was_deleted_or_is_lost(now: Present, reason: str, deleted: int) -> None:
    found = history.judge_index(BEFORE, now)
    assert (found.reason[: len(reason)], bool(found.reason), found.deleted) == (reason, bool(reason), deleted)
    assert found.tag.isalpha() or not found.reason


def test_files_that_a_person_accepted_are_no_surprise() -> None:
    now = present({4: A, 8: B}, known=0, unknown=3)
    assert history.judge_index(None, now).tag == "files"
    assert history.judge_index(None, now, begun_anew=True).reason == ""
    accepted = Content(BEFORE.images, 8, 20, BEFORE.lineage, unknown_files=3)
    assert history.judge_index(accepted, now).reason == ""
    assert history.judge_index(accepted, present({4: A, 8: B}, known=0, unknown=4)).tag == "files"


def test_a_predecessor_of_format_1_is_judged_by_its_last_change() -> None:
    manifest = {"format": 1, "counts": {"last_change": 20}}
    row = ["uuid", "1", "10", "md5", "md5", A]
    content = history.parse_content(manifest, [row, ["uuid", "2", "5", "md5", "md5", B]])
    assert content == Content({A: 0}, -1, 20, {})
    assert history.judge_index(content, present({})).reason == ""
    assert history.judge_index(content, present({}, change=19)).tag == "fell"
    assert history.continue_lineage(content, history.judge_index(content, present({})), False, "new") == {"new": None}
    more = {"sequence": {"resources": 8, "changes": 21}, "lineage": {"x": 5, "y": None}, "unknown_files": 2}
    assert history.parse_content({**manifest, **more}, [[*row, "7"]]) == Content({A: 7}, 8, 21, {"x": 5, "y": None}, 2)


@given(st.data())
def test_an_index_that_only_grows_and_deletes_always_goes_on(data: st.DataObject) -> None:
    """A model of Orthanc: store and delete; every later moment goes on from every earlier one."""
    resources: dict[int, str] = {}
    last = change = 0
    moments = []
    for action in data.draw(st.lists(st.sampled_from(["store", "delete", "look"]), max_size=30)):
        if action == "store":
            name = data.draw(st.sampled_from([letter * 40 for letter in "abcdef"]))
            if name not in resources.values():
                last, change = last + 1, change + 1
                resources[last] = name
        elif action == "delete" and resources:
            del resources[data.draw(st.sampled_from(sorted(resources)))]
        elif action == "look":
            moments.append(Content({name: number for number, name in resources.items()}, last, change, {"x": None}))
    for before in moments:
        found = history.judge_index(before, Present(resources, last, change, 1, 0))
        assert found.reason == ""
        assert found.deleted == len(before.images.keys() - {*resources.values()})


# --- lines ---------------------------------------------------------------------------------------
def test_an_internal_id_belongs_to_the_line_in_which_it_was_given() -> None:
    line: history.Lineage = {"first": None}
    second = history.fork_lineage(line, 100, "second")
    third = history.fork_lineage(second, 150, "third")
    assert third == {"first": 100, "second": 150, "third": None}
    assert [history.find_owner(third, number) for number in (1, 100, 101, 150, 151)] == [
        *("first", "first", "second", "second", "third")
    ]
    assert history.find_owner({}, 5) == history.find_owner(third, 0) == ""
    # a restore of something older ends more than one line
    assert history.fork_lineage(third, 90, "fourth") == {"first": 90, "second": 90, "third": 90, "fourth": None}
    assert history.fork_lineage({}, -1, "only") == {"only": None}
    content = Content({}, 160, 0, third)
    assert content.covers("first", 100)
    assert not content.covers("first", 101)
    assert not content.covers("third", 161)
    assert not content.covers("other", 1)


def test_a_snapshot_carries_its_line_on_or_begins_one() -> None:
    good, bad = history.Judgement("", "", 0), history.Judgement("fell", "fell", 0)
    assert history.continue_lineage(BEFORE, good, False, "new") == {"line": None}
    assert history.continue_lineage(BEFORE, good, True, "new") == {"line": 8, "new": None}
    assert history.continue_lineage(BEFORE, bad, False, "new") == {"new": None}
    assert history.continue_lineage(None, good, False, "new") == {"new": None}


# --- whose they are ------------------------------------------------------------------------------
def test_what_this_machine_does_not_know_is_another_s() -> None:
    past = history.adopt_snapshots("archive", [snapshot("2", "20260102T000000"), snapshot("1")])
    assert past.ours == ["1", "2"]
    past.note_own("3")
    assert past.unproven == past.unchecked == ["3"]
    past.note_checked("3")
    assert (past.unproven, past.unchecked) == (["3"], [])
    there = [snapshot(token) for token in "1234"]
    assert [one.token for one in history.find_strangers(there, past)] == ["4"]
    assert history.find_strangers(there, Past()) == []
    # by the order of runs, whatever the clock says; a run that has not ended is not proven
    latest = history.choose_latest([*there, snapshot("2", "20991231T000000")], past, "2")
    assert latest
    assert latest.token == "2"
    past.note_proven("3")
    assert history.choose_latest(there, past, "2") == snapshot("3")
    # what was noted is read again, of this archive alone
    assert Past.parse(json.loads(json.dumps(asdict(past))), "archive") == past
    assert Past.parse(asdict(past), "another") == Past.parse({}, "archive") == Past()


def test_without_a_memory_the_latest_is_by_time_and_not_of_the_future() -> None:
    there = [
        snapshot("1", "20260101T000000"),
        snapshot("2", "20420101T000000"),
        snapshot("3", "20260102T000000", False),
    ]
    latest = history.choose_latest(there, Past(), "20260301T000000")
    assert latest == there[0]
    assert history.choose_latest([], Past(), "2") is None
    assert history.adopt_snapshots("archive", there).unchecked == ["3"]


def test_after_a_restore_the_next_one_goes_on_from_what_was_restored() -> None:
    past = Past("archive", ours=["1", "2"], foreign=["9"])
    manifest = {"archive": "archive", "lineage": {"x": None}, "sequence": {"resources": 7, "changes": 9}}
    there = [snapshot(token) for token in ("1", "2", "3", "9")]
    new = history.record_restored(manifest, snapshot("1", proven=False), there, past, "new")
    assert (new.ours, new.foreign, new.lineage) == (["2", "3", "1"], ["9"], {"x": 7, "new": None})
    assert history.find_strangers(there, new) == []
    predecessor = history.choose_predecessor([snapshot("1", proven=False), snapshot("2")], new, "9")
    assert predecessor
    assert predecessor.token == "1"  # though it is not proven
    new.note_own("4")
    new.note_proven("4")
    # on each disk what was made since, or what was restored, or what it has
    one, two, four = snapshot("1"), snapshot("2"), snapshot("4")
    for disk, chosen in (([one, two, four], four), ([two, four], four), ([one, two], one), ([two], two)):
        assert history.choose_predecessor(disk, new, "9") == chosen
    # what an incomplete restore left out was not deleted
    partial = history.record_restored(manifest, there[0], there, past, "new", whole=False)
    assert (partial.restored, partial.lineage) == ("1", {"new": None})
    # what its machine had made on other disks, too
    elsewhere = history.record_restored({**manifest, "ours": ["0", "2", "8", "1"]}, there[0], there, Past(), "new")
    assert elsewhere.ours == ["0", "8", "2", "3", "9", "1"]
    # on a machine that remembers another archive, or nothing
    for before in (Past(), Past("another", ours=["7"])):
        assert history.record_restored(manifest, there[0], there, before, "new").ours == ["2", "3", "9", "1"]


def test_an_accepted_snapshot_is_proven_and_others_are_not() -> None:
    past = Past("archive", ours=["1", "2"], unproven=["2"])
    there = [snapshot("1"), snapshot("2", proven=False), snapshot("3")]
    new = history.record_accepted(past, there[1], there, {"by": "it"})
    assert [history.is_proven(one, new) for one in there] == [True, True, False]
    assert history.find_strangers(there, new) == []
    assert history.choose_latest(there, new, "9") == there[1]
    # one from before a restore does not end what the restore began
    past = Past("archive", ours=["1", "2", "0"], unproven=["1"], restored="0", lineage={"x": 1})
    assert history.record_accepted(past, there[0], there, {}).restored == "0"


# --- what may go ---------------------------------------------------------------------------------
NOW = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)


def dated(token: str, days: float) -> Dated:
    return Dated(f"id-{token}", token, NOW - timedelta(days=days))


def superseded(found: list[Dated], **keep: int) -> list[str]:
    return [one.token for one in retention.apply_policy(found, keep, NOW)]


def test_periods_are_restic_s() -> None:
    found = [dated(str(day), day) for day in range(30)]
    assert superseded(found, last=3) == [str(day) for day in range(3, 30)]
    # the oldest stays while a period is not full
    assert superseded(found, yearly=2) == [str(day) for day in range(1, 29)]
    assert superseded(found[:4], last=4) == []
    assert superseded([dated("a", 0), dated("b", 0.1), dated("c", 1)], daily=1) == ["b", "c"]
    assert superseded([dated("a", 0), dated("b", 0.1), dated("c", 1)], daily=2) == ["b"]
    assert superseded(found, daily=30) == []
    assert superseded(found, monthly=1, last=1) == [str(day) for day in range(1, 30)]


def test_a_snapshot_of_the_future_stands_for_none() -> None:
    found = [dated(str(day), day) for day in range(5)]
    future = [dated(f"future{day}", -day) for day in (1, 100, 5000)]
    for keep in ({"last": 2}, {"daily": 2}, {"yearly": 1}):
        assert superseded([*found, *future], **keep) == superseded(found, **keep)


def decide(
    contents: dict[str, Content | None], old: list[str], kept: list[str], proven: bool = True
) -> retention.Decision:
    return retention.protect_images([dated(token, 1) for token in old], kept, contents.get, proven)


def test_the_last_that_holds_an_image_stays_unless_it_was_deleted() -> None:
    line: history.Lineage = {"line": None}
    old = Content({A: 1, B: 2}, 2, 2, line)
    contents = {
        "old": old,
        "deleted": Content({B: 2}, 2, 3, line),
        "fork": Content({B: 2}, 9, 9, {"line": 1, "new": None}),
        "lost": Content({}, 50, 50, {"other": None}),
        "again": Content({A: 30, B: 31}, 50, 50, {"other": None}),
        "ancestor": Content({}, 1, 1, line),
        "first": Content({A: 0}, -1, 1, {}),
        "unreadable": None,
    }
    going, held = ["id-old"], {"old": 1}
    assert decide(contents, ["old"], ["deleted"]) == (going, {})
    # (line, 1) is of the fork as well, (line, 2) is there
    assert decide(contents, ["old"], ["fork"]) == (going, {})
    assert decide(contents, ["old"], ["lost"]) == ([], {"old": 2})
    assert decide(contents, ["old"], ["again"]) == (going, {})
    assert decide(contents, ["old"], ["lost", "unreadable"]) == ([], {"old": 2})
    assert decide(contents, ["unreadable"], ["again"]) == ([], {"unreadable": 0})
    assert decide(contents, ["first"], ["deleted"]) == ([], {"first": 1})
    assert decide(contents, ["first"], ["again"]) == (["id-first"], {})
    assert decide({**contents, "deleted": Content({B: 2}, 1, 1, {"line": 0})}, ["old"], ["deleted"]) == ([], held)
    # of several with the same images the newest stays; what is not proven stands for nothing
    contents["older"] = old
    assert decide(contents, ["old", "older"], ["lost"]) == (["id-older"], {"old": 2})
    assert decide(contents, ["old", "older"], ["lost"], proven=False) == ([], {"old": 2, "older": 2})


@given(st.data())
def test_nothing_that_was_not_deleted_is_missing_from_what_stays(data: st.DataObject) -> None:
    """A model of an archive with restores of older snapshots: whatever goes, each image is kept or was deleted."""
    names = [f"{number:040}" for number in range(8)]
    images: dict[str, int] = {}
    last = 0
    contents: dict[str, Content] = {}
    deleted: set[str] = set()
    actions = st.lists(st.sampled_from(["store", "delete", "backup", "restore", "lose"]), max_size=25)
    lines: history.Lineage = {"0": None}
    for number, action in enumerate(data.draw(actions), 1):
        if action == "store":
            last += 1
            name = data.draw(st.sampled_from(names))
            if name not in images:
                images[name] = last
                deleted.discard(name)
        elif action == "delete" and images:
            name = data.draw(st.sampled_from(sorted(images)))
            del images[name]
            deleted.add(name)
        elif action == "backup":
            contents[str(number)] = Content(dict(images), last, last, dict(lines))
        elif action == "restore" and contents:
            content = contents[data.draw(st.sampled_from(sorted(contents)))]
            images, last = dict(content.images), content.last_resource
            deleted -= {*images}
            lines = history.fork_lineage(content.lineage, last, str(number))
        elif action == "lose":
            images, last, lines = {}, 0, {str(number): None}
    newest_first = sorted(contents, key=int, reverse=True)
    kept = newest_first[:1]
    found = decide(dict(contents), newest_first[1:], kept)
    left = {name for token in [*kept, *found.held] for name in contents[token].images}
    held_once = {name for content in contents.values() for name in content.images}
    assert held_once - left <= deleted
