#!/usr/bin/env python3
"""A year day by day on the machine of the scenario `year`, what must happen on which day, and the list of what did.

Each night cron starts the backup, and the timers what is due. In the morning a device stores, and on weekdays the
clinic's application writes the items of the next weekday; in the evening the worklist is tidied, and the monitor checks
once, or again until it has decided. PLAN has what a person does, or breaks, on some mornings, and EXPECTED the alerts
of that, by rules that are written here anew. If days are left out, the device stores an image for each of them on the
next one, so that the disk fills as steadily as in a year of which no day is left out.

What is not as it must be is noted, and the year goes on. As a program it lives some days, and says of each how long it
took and how long the rest will take: python3 tests/support/days.py --days 21 --seed 7
"""

from __future__ import annotations

import argparse
import base64
import email
import io
import itertools
import json
import random
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any, NamedTuple

import pydicom
from backups import Image, held, held_in, lacking, must, restic
from clients import ADDRESSES, HOSTNAME, ROOT, VIEWER, client, content_of, example, put, scu
from held import digest
from pydicom.uid import generate_uid
from studies import identifier, remove
from worklists import DROP, Item
from year import MACHINE, ZONE, at, get_ready, go

DEVICE = "orthanc-year-us1"
FIRST, LAST = date(2027, 11, 15), date(2028, 11, 14)
BEGINS, ENDS = date(2028, 3, 26), date(2028, 10, 29)  # daylight saving time
LEAP_DAY = date(2028, 2, 29)
DAY, WEEK = timedelta(days=1), timedelta(days=7)
KEEP_DAYS, RENEW_DAYS, SUPPORT_DAYS = 7, 30, 90  # the product's settings, by its documentation
ACCEPTANCE = {date(2028, 2, 1), date(2028, 8, 1)}
TRIALS = {date(2027, 12, 31), date(2028, 6, 30), LAST}  # a snapshot is restored and compared
DELETED = date(2028, 1, 10), date(2028, 3, 15)  # the study of that day is deleted on this one
PACES = ("daily", "weekly", "planned")
MOST_IMAGES = 7  # that the device stores on a day: one for each day that was left out
BROKEN_DAYS = 2  # in a row, after which the machine no longer answers
RESULT = ROOT / "bench/results/year.json"
TRIAL = "/root/trial"


class Alert(NamedTuple):
    """A mail on the first day and each day of a week, then one a week, and on the day that says that all is clear."""

    name: str
    first: date
    clear: date


OLD_CHECK, NEAR_END = date(2028, 1, 18), date(2028, 11, 11)
# the end of Debian 12's support is told from 2 April on, and is on 30 June; the days beside them
SUPPORT = date(2028, 4, 1), date(2028, 7, 1)
OFF_CHECK = date(2028, 1, 10), date(2028, 1, 27)
OFF_CRON = date(2028, 2, 7), date(2028, 2, 9)
OFF_RENEWAL = date(2028, 10, 20), date(2028, 11, 13)
BAD_ITEM = date(2028, 4, 12)
# what a person does in the morning, after the night's backup
PLAN = {
    OFF_CHECK[0]: ("the restore check's timer is stopped", "systemctl stop orthanc-restore-check.timer"),
    OFF_CHECK[1]: ("it is started again", "systemctl start orthanc-restore-check.timer"),
    OFF_CRON[0]: ("cron is stopped", "systemctl stop cron"),
    OFF_CRON[1]: ("it is started again", "systemctl start cron"),
    OFF_RENEWAL[0]: ("the renewal of the certificate is stopped", "systemctl stop orthanc-certificate.timer"),
    OFF_RENEWAL[1]: ("it is started again", "systemctl start orthanc-certificate.timer"),
}
EXPECTED = [
    Alert("TimerOff", *OFF_CHECK),
    # the last check was on Sunday the 9th, and nine days may pass
    Alert("RestoreCheckOld", OLD_CHECK, OFF_CHECK[1]),
    Alert("TimerOff", *OFF_CRON),
    # the backup of the first night is two nights old in the evening
    Alert("BackupOld", OFF_CRON[0] + DAY, OFF_CRON[1] + DAY),
    Alert("WorklistQuarantine", BAD_ITEM, BAD_ITEM + DAY),
    Alert("TimerOff", *OFF_RENEWAL),
    # the deploy of 25 October 2027 has issued it for 397 days
    Alert("CertificateExpires", NEAR_END, OFF_RENEWAL[1]),
]


# --- what must be --------------------------------------------------------------------------------
def keep_snapshots(found: set[date], keep: dict[str, int]) -> set[date]:
    """What `restic forget` keeps, by its manual: the newest snapshot of each of the last days, weeks and months that
    have one; and the oldest of all, while there are fewer of these than are to be kept."""
    buckets = {"daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m", "yearly": "%Y"}
    kept: set[date] = set()
    for name, number in keep.items():
        newest: dict[str, date] = {}
        for one in sorted(found):
            newest[one.strftime(buckets[name])] = one
        last = sorted(newest.values(), reverse=True)
        kept |= {*last[:number]}
        if found and min(found) not in last and len(last) < number:
            kept.add(min(found))
    return kept


def list_mails(text: str) -> list[tuple[str, str]]:
    """Of each message in the mailbox, what it says (Trouble, Still, All clear) of which alert."""
    found = []
    for mail in re.split(r"^From .*\n", text, flags=re.MULTILINE)[1:]:
        content = email.message_from_string(mail).get_payload(decode=True)
        assert isinstance(content, bytes), "not one part"
        for line, following in itertools.pairwise(content.decode().splitlines()):
            if name := re.fullmatch(r"  (\w+) since .*", following):
                found.append((re.split("[,:]", line)[0], name[1]))
    return found


def expect_mails(before: date, day: date, alerts: Iterable[Alert], told: Mapping[str, date]) -> list[tuple[str, str]]:
    """What the mails of a day say, of each alert one thing at most; `before` is the last day that was lived, and `told`
    has the day of each alert's last mail."""
    words = {(False, True): "Trouble", (True, True): "Still", (True, False): "All clear"}
    found = []
    for one in alerts:
        word = words.get((one.first <= before < one.clear, one.first <= day < one.clear))
        if word == "Still" and day >= one.first + WEEK and day < told[one.name] + WEEK:
            continue
        if word:
            found.append((word, one.name))
    return sorted(found)


def expect_support(csv: str) -> list[Alert]:
    """The alerts on the end of Debian 12's security updates, from the table of Debian's package distro-info-data."""
    row = next(line.split(",") for line in csv.splitlines() if ",bookworm," in line)
    end = max(date.fromisoformat(one) for one in row[4:7] if re.fullmatch(r"\d{4}-\d\d-\d\d", one))
    # the first is a consequence of the second, and silent
    return [
        Alert("SystemEndSoon", end - timedelta(days=SUPPORT_DAYS - 1), end + DAY),
        Alert("SystemEndOfLife", end + DAY, date.max),
    ]


def is_served(item: date, day: date, arrived: bool) -> bool:
    """Whether the list has an item on the evening of a day."""
    return not arrived and day <= item + timedelta(days=KEEP_DAYS)


def choose_days(first: date, last: date, pace: str) -> list[date]:
    """Each day (`daily`), or those on which something is planned (`planned`), or these and Sundays (`weekly`)."""
    if pace not in PACES:
        raise ValueError(f"{pace} must be one of {', '.join(PACES)}")
    planned = {FIRST, *PLAN, BEGINS, ENDS, BAD_ITEM, *DELETED, *ACCEPTANCE, *TRIALS, LEAP_DAY, *SUPPORT}
    planned |= {day for one in EXPECTED for day in one[1:]} | {OLD_CHECK - DAY, NEAR_END - DAY}
    days = [first + DAY * number for number in range((last - first).days + 1)]
    return [day for day in days if pace == "daily" or day in planned or (pace == "weekly" and day.weekday() == 6)]


# --- the year ------------------------------------------------------------------------------------
def make_image(rng: random.Random, study: str, patient: str, accession: str) -> bytes:
    """An ultrasound image of 98 kB whose pixels cannot be compressed."""
    image = pydicom.dcmread(example("examples_rgb_color.dcm"))
    for element in [*image]:
        # DCMTK leaves out the padding at the end
        if element.VR == "SQ" or element.tag.is_private or element.keyword == "DataSetTrailingPadding":
            del image[element.tag]
    image.StudyInstanceUID, image.SeriesInstanceUID = study, generate_uid()
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.PatientID, image.AccessionNumber, image.Rows, image.Columns = patient, accession, 180, 180
    image.PixelData = rng.randbytes(180 * 180 * 3)
    return content_of(image)


@dataclass
class Scheduled:
    """An item on the list: its day, and whether its study has arrived."""

    item: Item
    day: date
    arrived: bool = False


@dataclass
class Year:
    """The days so far: what was stored, what is on the list, what is in the repository, and what happened."""

    seed: int = 7
    begin: date = FIRST
    last: date = LAST
    minute: int = 0
    pace: str = "daily"  # which days are lived
    day: date = FIRST - DAY
    before: date = FIRST - DAY  # the last one that was lived
    images: list[tuple[date, Image]] = field(default_factory=list)
    items: list[Scheduled] = field(default_factory=list)
    earlier: set[str] = field(default_factory=set)  # what was on the list before
    snapshots: set[date] = field(default_factory=set)
    alerts: list[Alert] = field(default_factory=lambda: [*EXPECTED])
    keep: dict[str, int] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)  # what the mails of this day have said
    last_told: dict[str, date] = field(default_factory=dict)  # the day of each alert's last mail
    serial: str = ""
    ends: datetime = datetime.max
    rotations: int = 0
    forecasts: dict[date, tuple[float, int]] = field(default_factory=dict)
    happened: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)  # seconds of each day
    broken: int = 0  # days in a row that ended early

    def get_ready(self) -> None:
        """Reads what the deploy has set; nothing has happened yet."""
        self.day, self.minute = self.begin - DAY, get_ready()
        self.alerts = [one for one in self.alerts if one.clear >= self.begin]
        self.keep = json.loads(must(MACHINE, "cat /etc/orthanc-backup.json"))["keep"]
        self.alerts += expect_support(must(MACHINE, "cat /usr/share/distro-info/debian.csv"))
        self.rotations = int(must(MACHINE, "grep -oP '^\\s*rotate \\K\\d+' /etc/logrotate.d/nginx"))
        # the Sundays since the deploy are made up for
        found = go(at(self.day, 13))
        self.note_certificate(found["certificate"])
        self.earlier = {*found["served"]}
        self.snapshots = self.list_snapshots()

    def live_until(self, last: date) -> list[str]:
        """Lives the days until this one, and says how long the rest takes; what was not as it must be.

        AssertionError if the machine no longer lives any day to its end.
        """
        known = len(self.problems)
        for day in choose_days(self.day + DAY, last, self.pace):
            assert self.broken < BROKEN_DAYS, f"the last days ended early: {self.problems[-BROKEN_DAYS:]}"
            self.before, self.day = self.day, day
            begin = time.monotonic()
            self.attempt_day()
            self.took.append(time.monotonic() - begin)
            print(self.describe_progress(), flush=True)
        return self.problems[known:]

    def attempt_day(self) -> None:
        """One day; if it cannot be lived to its end, that is noted."""
        try:
            self.live_day()
            self.broken = 0
        except Exception as error:  # whatever it is, the other days have more to show
            self.broken += 1
            self.expect(False, f"the day ended early: {type(error).__name__}: {error}")

    def describe_progress(self) -> str:
        """How far the year is, about how long the rest takes, and what happened on this day."""
        number, left = len(self.took), len(choose_days(self.day + DAY, self.last, self.pace))
        minutes = sum(self.took) / number * left / 60
        said = f"day {number} of {number + left} took {self.took[-1]:.0f} s, about {minutes:.0f} min are left"
        return f"{said}: {json.dumps(self.happened[-1])}"

    def go(self, *arguments: Any, **settings: Any) -> Any:
        """The clock goes to a moment (year.go); every mail that comes is one of this day."""
        found = go(*arguments, **settings)
        self.told += list_mails(found["mails"])
        return found

    def live_day(self) -> None:
        """One day: the night, what a person does, what arrives, and the evening."""
        day, rng = self.day, random.Random(f"{self.seed} {self.day}")
        row: dict[str, Any] = {"day": f"{day}", "events": [], "mails": []}
        self.told = []
        self.happened.append(row)
        sunday = day - DAY * ((day.weekday() + 1) % 7 or 7)
        if sunday > self.before:  # days are left out: the check of that Sunday comes before the night's backup
            self.expect_check(row, self.go(at(sunday, 13)), sunday)
        if OFF_CRON[0] < day <= OFF_CRON[1]:
            self.go(at(day, 2, self.minute))
        else:
            self.expect_backup(row, self.spend_night(row))
        if day in PLAN:
            what, script = PLAN[day]
            row["events"].append(what)
            must(MACHINE, script)
        if day == DELETED[1]:
            self.delete(DELETED[0])
            row["events"].append(f"the study of {DELETED[0]} is deleted in Orthanc")
        if self.is_open(day):
            self.store(row, rng)
        evening = datetime(day.year, day.month, day.day, 18, tzinfo=timezone.utc).timestamp()
        look = evening + 1800 + self.find_delay()
        found = self.go(evening, run=tuple(self.write_items(row)), look=look)
        self.expect_evening(row, found)
        if day in TRIALS:
            self.try_restore(row)

    def find_delay(self) -> float:
        """Seconds by which the monitor checks later on this day than on the first: its checks are a little more than a
        day apart, also where the clock goes back or forward, so that a reminder is due on each day."""
        return 3 * 3600 * len(self.took) / len(choose_days(self.begin, self.last, self.pace))

    def is_open(self, day: date) -> bool:
        """Whether the clinic works: on weekdays, or on each of some days."""
        return day.weekday() < 5 or self.pace != "daily"

    def expect(self, is_true: object, what: str) -> None:
        """Notes what is not as it must be, and goes on: a year has more to show."""
        if not is_true:
            self.problems.append(f"{self.day}: {what}")
            print(self.problems[-1], flush=True)

    # --- night -----------------------------------------------------------------------------------
    def spend_night(self, row: dict[str, Any]) -> Any:
        """The clock goes to the minute of the backup, which cron starts; what there is then."""
        day = self.day
        if day in ACCEPTANCE:
            self.go(at(day, 2, self.minute), "cron", "backup")
            minute = int(must(MACHINE, "grep -oE '^[0-9]+' /etc/cron.d/orthanc-verify"))
            # it requires that the monitor has just checked
            self.go(at(day, 5, minute) - 300, look=at(day, 5, minute) - 90)
            return self.go(at(day, 5, minute), "cron")
        if day == BEGINS:  # cron starts at three what it would have missed
            row["events"].append("daylight saving time begins: the hour of the backup is left out")
            self.go(at(day, 1, 59, 50), "cron", run=("while [ $(date +%-H) -lt 3 ]; do sleep 0.2; done",))
            return self.go(None, "cron", "backup", since=at(day, 3))
        if day == ENDS:
            row["events"].append("daylight saving time ends: the hour of the backup comes twice")
            first = self.go(at(day, 2, self.minute), "cron", "backup")["backup"]
            self.go(at(day, 2, 59), "cron")
            found = self.go(at(day, 2, self.minute, fold=1), "cron")
            self.expect(found["backup"] == first, "the hour that comes twice has another backup")
            return found
        if day == LEAP_DAY:
            row["events"].append("the leap day")
        return self.go(at(day, 2, self.minute), "cron", "backup")

    def expect_backup(self, row: dict[str, Any], found: Any) -> None:
        """The night's backup; on some days the acceptance test."""
        made = read_stamp(found["backup"].get("started", ""))
        self.expect(found["backup"].get("result") == "success", f"the backup: {found['backup']}")
        self.expect(made.date() == self.day, f"the last backup is of {made}")
        row["backup"], row["night"] = f"{made:%H:%M}", True
        if self.day in ACCEPTANCE:
            told = found["acceptance"]
            passes = told["passed"] and told["time"].startswith(f"{self.day}")
            self.expect(passes, f"the acceptance test: {told}")
            row["events"].append("the acceptance test passes" if passes else "the acceptance test fails")

    # --- what arrives ----------------------------------------------------------------------------
    def store(self, row: dict[str, Any], rng: random.Random) -> None:
        """A device stores the images of the first patient who is on the list today, and somebody reads one."""
        due = next((one for one in self.items if one.day == self.day), None)
        item = due.item if due else Item(f"WALK-IN-{self.day:%Y%m%d}")
        files = [make_image(rng, item.study, item.patient, item.accession) for _ in range(self.count_images(rng))]
        paths = [f"/tmp/image{number}.dcm" for number in range(len(files))]
        for path, file in zip(paths, files, strict=True):
            put(DEVICE, path, file)
        status, said = scu(DEVICE, "storescu", "US1", ADDRESSES[MACHINE][0], "-xe", *paths)
        self.expect(status == 0, f"C-STORE: {said}")
        row["stored"] = len(files)
        for file in files:
            uid = str(pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True).SOPInstanceUID)
            image = Image(uid, item.study, item.accession, "US1", 0, 0, status, digest(file))
            self.images.append((self.day, image))
        if due:
            due.arrived = True
        address = f"{HOSTNAME}:443:{ADDRESSES[MACHINE][0]}"
        # the client lives in another year than the certificate
        ask = ["curl", "--silent", "--insecure", "--resolve", address, "--user", VIEWER, "--output", "/dev/null"]
        url = f"https://{HOSTNAME}/dicom-web/studies/{item.study}/metadata"
        answer = client(DEVICE, *ask, "--write-out", "%{http_code}", url)
        self.expect(answer.stdout == b"200", f"DICOMweb: {answer.stdout!r} {answer.stderr!r}")

    def count_images(self, rng: random.Random) -> int:
        """How many the device stores today; on a day before which days were left out, theirs as well."""
        return rng.randint(1, 2) if self.pace == "daily" else min((self.day - self.before).days, MOST_IMAGES)

    def delete(self, of: date) -> None:
        """As a person deletes in the interface; these images need no longer be there."""
        gone = [image for day, image in self.images if day == of]
        for study in {image.study for image in gone}:
            if identifier(MACHINE, study):
                remove(MACHINE, study)
        self.images = [(day, image) for day, image in self.images if day != of]

    def write_items(self, row: dict[str, Any]) -> list[str]:
        """What the application writes for the next working day, then what runs each minute and each quarter of an
        hour."""
        scripts = []
        if self.is_open(self.day):
            following = choose_days(self.day + DAY, LAST + DAY * 3, self.pace)
            ahead = next((day for day in following if self.is_open(day)), self.day + DAY)
            for number in range(2):
                item = Item(f"P{ahead:%Y%m%d}-{number}", date=f"{ahead:%Y%m%d}", accession=f"{ahead:%Y%m%d}{number}")
                self.items.append(Scheduled(item, ahead))
                scripts.append(write_item(f"{ahead:%Y%m%d}-{number}", item.file()))
        if self.day == BAD_ITEM:
            scripts.append(write_item("bad", b"Dear clinic, please find enclosed"))
            row["events"].append("an application writes a letter instead of an item")
        waiting = f'while [ -n "$(ls -A {DROP})" ]; do sleep 0.2; done'
        ledger = ["systemctl start orthanc-ledger.service"] if self.day.weekday() == 6 else []
        return [*scripts, f"timeout 300 sh -c {shlex.quote(waiting)}", "systemctl start orthanc-worklist-tidy", *ledger]

    # --- evening ---------------------------------------------------------------------------------
    def expect_evening(self, row: dict[str, Any], found: Any) -> None:
        """What is on the list, what the mails say, the certificate, the logs, and on Sundays the snapshots."""
        served = [f"{one.item.study}_1.wl" for one in self.items if is_served(one.day, self.day, one.arrived)]
        there = {*found["served"]} - self.earlier
        self.expect(there == {*served}, f"the list has {there}, and should have {served}")
        stayed = [one for one in self.items if is_served(one.day, self.before, one.arrived)]
        row["served"] = len(there)
        row["expired"] = len([one for one in stayed if not is_served(one.day, self.day, one.arrived)])
        self.expect_mails(row)
        self.expect_certificate(row, found)
        self.expect_logs(row, found["logs"])
        self.expect_forecast(row, found["disk"])
        self.expect_check(row, found, self.day)

    def expect_check(self, row: dict[str, Any], found: Any, day: date) -> None:
        """On Sundays, and when its timer is on again, there is a restore check, after which old snapshots go."""
        checked = read_stamp(found["restore_check"].get("started", ""))
        if self.is_check_due(day):
            self.expect(checked.date() == day, f"the last restore check is of {checked}, and not of {day}")
            self.expect(found["restore_check"].get("result") == "success", f"restore check: {found['restore_check']}")
            self.expect_snapshots(row)
        else:
            self.expect(checked.date() < day, f"a restore check at {checked}")

    def is_check_due(self, day: date) -> bool:
        """On Sundays, and when its timer is on again after Sundays without it."""
        off, on = OFF_CHECK
        return day == on or (day.weekday() == 6 and not off <= day < on)

    def expect_mails(self, row: dict[str, Any]) -> None:
        """Each alert once on its day, whenever the mail came."""
        expected = expect_mails(self.before, self.day, self.alerts, self.last_told)
        # SystemEndSoon is followed by SystemEndOfLife, and does not end
        expected = [one for one in expected if one != ("All clear", "SystemEndSoon")]
        self.expect(sorted(self.told) == expected, f"the mails say {sorted(self.told)}, and should say {expected}")
        row["mails"] = [f"{word}: {name}" for word, name in self.told]
        self.last_told |= {name: self.day for _unused, name in self.told}

    def note_certificate(self, text: str) -> bool:
        """Whether it is another certificate than before; notes its serial number and its end."""
        known = dict(line.split("=", 1) for line in text.splitlines())
        is_new = known["serial"] != self.serial
        end = datetime.strptime(known["notAfter"], "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)
        self.serial, self.ends = known["serial"], end
        return is_new

    def expect_certificate(self, row: dict[str, Any], found: Any) -> None:
        """It is renewed 30 days before its end, unless nothing renews it: then the monitor says so two weeks before."""
        now, end = datetime.fromtimestamp(found["now"], timezone.utc), self.ends
        is_off = OFF_RENEWAL[0] <= self.day < OFF_RENEWAL[1]
        is_due = end - now < timedelta(days=RENEW_DAYS) and not is_off
        if self.note_certificate(found["certificate"]):
            row["events"].append(f"the certificate is renewed until {self.ends:%Y-%m-%d}")
        self.expect((self.ends != end) == is_due, f"a certificate until {self.ends}, at {now}, before: {end}")

    def expect_logs(self, row: dict[str, Any], logs: list[str]) -> None:
        """nginx's log is rotated each day on which something was written, and so many are kept."""
        old = [name for name in logs if name != "orthanc_access.log"]
        row["logs"] = len(old)
        self.expect(len(old) <= self.rotations, f"more logs than {self.rotations}: {logs}")
        weekdays = len([one for one in self.happened[:-1] if one.get("stored")])
        self.expect(len(old) >= min(weekdays, self.rotations), f"fewer logs than {weekdays} days: {logs}")

    def expect_forecast(self, row: dict[str, Any], disk: dict[str, Any]) -> None:
        """What the monitor said 28 days ago of the growth, compared with what came."""
        growth, used = disk.get("growth_bytes_per_day"), disk["total_bytes"] - disk["free_bytes"]
        if growth is not None:
            self.forecasts[self.day] = growth, used
        known = self.forecasts.get(self.day - timedelta(days=28))
        # on the last Sunday of a month; a month is the forecast's basis
        is_last = self.day.weekday() == 6 and (self.day + DAY * 7).month != self.day.month
        if known and is_last and self.day - self.begin >= timedelta(days=56):
            came = (used - known[1]) / 28
            said = f"{known[0] / 1e3:.0f} kB a day were forecast 28 days ago, {came / 1e3:.0f} kB came"
            row["events"].append(said)
            # where weeks are left out, what arrives is not steady
            self.expect(self.pace == "planned" or 0.8 < came / known[0] < 1.25, said)

    # --- snapshots -------------------------------------------------------------------------------
    def list_snapshots(self) -> set[date]:
        """The days of the snapshots of images in the repository, by the machine's time; restic says so itself."""
        status, said = restic(MACHINE, "snapshots", "--json", "--tag", "orthanc", "--quiet")
        assert status == 0, said
        return {date.fromisoformat(one["time"][:10]) for one in json.loads(said)}

    def expect_snapshots(self, row: dict[str, Any]) -> None:
        """Those that restic's policy keeps of what was there, and of each night since."""
        before = self.snapshots | {date.fromisoformat(one["day"]) for one in self.happened if one.pop("night", False)}
        found, kept = self.list_snapshots(), keep_snapshots(before, self.keep)
        wrong = f"snapshots of {list_days(found)}; restic's policy keeps {list_days(kept)} of {list_days(before)}"
        self.expect(found == kept, wrong)
        row["snapshots"], row["dropped"] = len(found), list_days(before - found)
        self.snapshots = found

    def try_restore(self, row: dict[str, Any]) -> None:
        """Orthanc has every image that was acknowledged, and the newest snapshot those that came before the night."""
        stored = [image for _day, image in self.images]
        nights = [one for one in self.happened if one.get("backup")]
        earlier = [image for day, image in self.images if nights and f"{day}" < nights[-1]["day"]]
        self.expect(not lacking(held(MACHINE), stored), f"Orthanc lacks {lacking(held(MACHINE), stored)}")
        status, said = restic(MACHINE, "restore", "latest", "--tag", "orthanc", "--target", TRIAL, "--quiet")
        assert status == 0, said
        must(MACHINE, f"cp $(find {TRIAL}/var/lib/orthanc-backup -name index) {TRIAL}/var/lib/orthanc/db/")
        lost = lacking(held_in(MACHINE, f"{TRIAL}/var/lib/orthanc/db"), earlier)
        must(MACHINE, f"rm -rf {TRIAL}")
        self.expect(not lost, f"the newest snapshot lacks {lost}")
        row["events"].append(f"Orthanc has {len(stored)} images, and the newest snapshot {len(earlier)} of them")


# --- words ---------------------------------------------------------------------------------------
def read_stamp(text: str) -> datetime:
    """A moment as orthanc-backup writes it, in the machine's time; the beginning of time for none."""
    if not text:
        return datetime(1970, 1, 1, tzinfo=ZONE)
    return datetime.strptime(text.partition(".")[0], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc).astimezone(ZONE)


def write_item(name: str, content: bytes) -> str:
    """The script by which the clinic's application submits an item."""
    part, done = f"{DROP}/{name}.part", f"{DROP}/{name}.wl"
    script = f"umask 077; base64 -d > {part} && mv {part} {done}"
    return f"echo {base64.b64encode(content).decode()} | runuser -u emr -- sh -c {shlex.quote(script)}"


def list_days(days: Iterable[date]) -> str:
    return ", ".join(f"{day}" for day in sorted(days)) or "none"


def describe_versions() -> str:
    """What the machine runs."""
    ask = "dpkg-query --show --showformat='${Version}\\n' orthanc restic systemd; uname -r"
    found = [re.split(r"[^\d.]", line)[0] for line in must(MACHINE, ask).splitlines()]
    names = ("Orthanc", "restic", "systemd", "User Mode Linux")
    return ", ".join(["Debian 12", *(f"{name} {version}" for name, version in zip(names, found, strict=True))])


def describe_figure(year: Year, minutes: float) -> str:
    """What was lived, what came of it, and what was not as it must be."""
    rows = year.happened
    count = {name: sum(bool(row.get(name)) for row in rows) for name in ("backup", "snapshots", "stored")}
    expired, mails = sum(row.get("expired", 0) for row in rows), sum(len(row["mails"]) for row in rows)
    days = (date.fromisoformat(rows[-1]["day"]) - date.fromisoformat(rows[0]["day"])).days + 1
    figure = f"{len(rows)} of the {days} days from {rows[0]['day']} to {rows[-1]['day']} in {minutes:.0f} min: "
    figure += f"{count['backup']} backups, {count['snapshots']} restore checks, {len(year.images)} images of "
    figure += f"{count['stored']} days, {expired} worklist items that expired, {mails} messages by mail (below). "
    if year.problems:
        return f"{figure}**Not as it must be**: {'; '.join(year.problems)}"
    return f"{figure}Every image was there, and each message came on its day and once"


def describe_year(year: Year, minutes: float, command: str) -> dict[str, Any]:
    """The result, as bench/results/year.json has it."""
    return {
        **{"id": "year_days", "section": "campaign", "date": f"{date.today()}", "versions": describe_versions()},
        **{"command": command, "promised": "", "figure": describe_figure(year, minutes)},
        "what": "a year day by day, on a machine with a clock of its own whose cron and timers start what is due",
        "days": [{name: value for name, value in row.items() if name != "night"} for row in year.happened],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=21)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--begin", type=date.fromisoformat, default=FIRST)
    parser.add_argument(
        "--pace", choices=PACES, default=PACES[0], help="each day, Sundays and what is planned, or that"
    )
    chosen = parser.parse_args()
    last = chosen.begin + DAY * (chosen.days - 1)
    year = Year(chosen.seed, chosen.begin, last, pace=chosen.pace)
    year.get_ready()
    problems = year.live_until(last)
    print(f"{len(year.happened)} days, {len(problems)} problems", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
