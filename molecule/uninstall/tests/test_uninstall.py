"""What a deploy made is what an uninstall removes; images and backups stay, and a stock Orthanc opens them."""

from __future__ import annotations

import json
import random
import re
import subprocess
from typing import Any

import pytest
from backups import must
from clients import play, put, start
from uninstalled import (
    ADOPTED,
    CONTAINER,
    GUIDE,
    IMAGES,
    MACHINES,
    PACKAGE,
    STORAGE,
    compare,
    list_files_of,
    list_new_packages,
    matches,
    on_all,
    read_before,
    read_images,
    record,
)

BEFORE = "/etc/orthanc/site/before"
UPGRADE = "/var/lib/orthanc-upgrade"
SEED = 24
MOMENTS = (12, 45)  # tasks of an uninstall
# What may differ after an uninstall, and why. Files of packages, and units of the same name, are not listed: packages
# stay.
DIFFERS = {
    f"file {STORAGE}(/.*)?": "images and index stay",
    "file /var/lib/orthanc(/tmp|/db-v6)?": "the directory of the images; the others are the package's",
    "file /var/lib/orthanc/worklists(/.*)?": "worklists stay",
    "file /srv(/repository(/.*)?)?": "backups stay",
    "file /etc/systemd/system/orthanc.service": "Orthanc stays masked",
    "(unit|loaded) orthanc.service": "Orthanc stays masked",
    f"file {BEFORE}(/.*)?": "what the adoption had put away stays",
    "file /var/lib/orthanc-upgrade(/arrived(/.*)?)?": "images that no Orthanc has stay",
    "file /etc/orthanc(/site|/[a-z]+[.]json)?": "where that is; configuration files of packages",
    # what the maintainer scripts of packages make
    "(account|group) (orthanc|docker|systemd-timesync|_ssh|msmtp|prometheus|ssl-cert)": "accounts of packages",
    "file /etc/systemd/system/[a-z-]+[.](target|socket|service)[.]wants(/[a-z-]+[.][a-z]+)?": "units of packages",
    "file /etc/systemd/system/(dbus-org.freedesktop.timesync1|sockets.target.wants/.*)[.]?.*": "units of packages",
    "file /var/lib/systemd/(deb-systemd-helper-[a-z-]+|timesync)(/.*)?": "systemd's notes on packages",
    "file /var/lib/systemd/timers(/stamp-(?!orthanc).*)?": "when timers of packages ran",
    "file /root/[.]ansible(_async)?(/.*)?": "Ansible's directories of temporary files",
    "file /etc/locale.gen": "Orthanc's package adds its locale",
    "file /var/www(/html(/index.nginx-debian.html)?)?": "nginx's welcome page, which is not served",
    "unit dbus-org.freedesktop.timesync1.service": "another name of a package's unit",
    "file /etc/rc[0-6S][.]d(/.*)?": "init scripts of packages",
    "file /etc/alternatives(/.*)?": "alternatives of packages",
    "file /etc/(ld[.]so[.]cache|[.]pwd[.]lock)": "caches",
    "file /var/lib/(nginx|ucf|python|misc|private|systemd/random-seed|prometheus)(/.*)?": "directories of packages",
    "file /etc/nginx/(modules-enabled/50-.*|sites-enabled(/default)?)": "nginx's modules; no welcome page",
}
MSMTPS = "file /etc/apparmor.d/(disable|local)(/usr.bin.msmtp)?"
OLDS = "port tcp 0.0.0.0:(4242|8042)"  # the adopted Orthanc stays stopped
DOCKERS = (
    "table ip6? (nat|filter|raw)|network (bridge|host|none)|mount .*docker.*|unit .*docker.*|file /etc/docker(/.*)?"
    "|file /etc/(networks|cni(/net.d)?)|port tcp 127.0.0.1:[0-9]+"
)


def uninstall(machine: str, *more: str, confirm: str | None = None, **settings: Any) -> tuple[int, str]:
    """Exit code and output; `confirm` is the name that is given."""
    name = machine if confirm is None else confirm
    return play("uninstall", machine, {"orthanc_install_confirm_uninstall": name, **settings}, *more)


def require_uninstalled(machine: str) -> None:
    """The machine is as it was before the deploy, but for what is listed."""
    different = compare(read_before(machine), record(machine))
    packages = list_new_packages(different)
    # of those that stay, none is another release
    assert [name for name in packages if different[f"package {name}"][0]] == []
    paths = list_files_of(machine, packages)
    units = {path.rpartition("/")[2] for path in paths if "/systemd/system/" in path}
    more = {CONTAINER: {DOCKERS: "the engine stays", MSMTPS: "of its package"}, ADOPTED: {OLDS: "it stays stopped"}}
    patterns = {**DIFFERS, **more.get(machine, {})}
    if machine != CONTAINER:
        assert must(machine, "dpkg --verify orthanc orthanc-dicomweb") == ""
    left = {}
    for name, values in different.items():
        kind, _unused, what = name.partition(" ")
        if kind == "package" or (kind == "file" and what in paths) or (kind in ("unit", "loaded") and what in units):
            continue
        if not matches(name, patterns):
            left[name] = values
    assert left == {}


@pytest.fixture(scope="module")
def images() -> dict[str, dict[str, str]]:
    """What each machine has when it is deployed."""
    for status, told in on_all(lambda machine: play("deploy", machine)).values():
        assert status == 0, told[-3000:]
    found = on_all(lambda machine: read_images(machine, count=0 if machine == ADOPTED else IMAGES))
    assert [len(one) for one in found.values()] == [IMAGES] * 3
    return found


def without_noise(found: dict[str, str]) -> dict[str, str]:
    """Of a machine that runs: what its programs write each minute is not compared."""
    moving = r"file /var/lib/(orthanc-\w+|orthanc/db|systemd/timers)(/.*)?|loaded .*|file /srv/repository.*|table .*"
    return {name: value for name, value in found.items() if not re.fullmatch(moving, name)}


def test_nothing_is_removed_by_mistake(images: dict[str, dict[str, str]]) -> None:
    before = on_all(record)
    # another Orthanc than the deploy's: the unit without its drop-in, and a container of that name
    drop_in = "/etc/systemd/system/orthanc.service.d/clinicops.conf"
    must(ADOPTED, f"mv {drop_in} /run/ && systemctl daemon-reload")
    mistakes = {
        PACKAGE: lambda: uninstall(PACKAGE, confirm=""),
        CONTAINER: lambda: uninstall(CONTAINER, confirm=PACKAGE),
        ADOPTED: lambda: uninstall(ADOPTED),
    }
    said = on_all(lambda machine: mistakes[machine]())
    must(ADOPTED, f"mv /run/clinicops.conf {drop_in} && systemctl daemon-reload")
    for machine, words in (
        (PACKAGE, f"the name of this clinic, {PACKAGE}, was not given"),
        (CONTAINER, f"the name of this clinic, {CONTAINER}, was not given"),
        (ADOPTED, "orthanc.service is an Orthanc that this collection did not deploy"),
    ):
        status, told = said[machine]
        assert status != 0, told
        assert "Nothing was changed" in told
        assert words in told, told[-3000:]
        assert "changed=0" in told
    waivers = {"removes_images": "the clinic is closed", "removes_backups": "the clinic is closed"}
    status, told = uninstall(PACKAGE, orthanc_waivers=waivers)
    assert status != 0
    assert "no backup of this server was ever proven" in told, told[-3000:]
    assert "orthanc_waivers: {removes_last_copy: <your reason>}" in told
    status, told = uninstall(CONTAINER, orthanc_storage_dir="/var/lib/orthanc/others")
    assert status != 0
    assert f"but this server was deployed with {STORAGE}" in told, told[-3000:]
    after = on_all(record)
    for machine in MACHINES:
        assert compare(without_noise(before[machine]), without_noise(after[machine])) == {}
    assert on_all(read_images) == images


def test_check_mode_says_what_would_go(images: dict[str, dict[str, str]]) -> None:
    before = on_all(record)
    said = on_all(lambda machine: uninstall(machine, "--check", confirm=""))
    after = on_all(record)
    for machine, (status, told) in said.items():
        assert status == 0, told[-3000:]
        assert compare(without_noise(before[machine]), without_noise(after[machine])) == {}
        for path in ("/etc/cron.d/orthanc-verify", "/etc/orthanc/site/orthanc.json", "/etc/nginx/orthanc"):
            assert path in told
        assert "table inet orthanc" in told
    assert "the backups in /srv/repository" in said[PACKAGE][1]
    assert "No backup of this server was ever proven" in said[PACKAGE][1]
    assert "the container orthanc" in said[CONTAINER][1]
    assert "the account orthanc" in said[CONTAINER][1]
    assert f"tar --directory {BEFORE} --create etc" in said[ADOPTED][1]


def cut_off(machine: str) -> None:
    """Kills the controller in the middle of an uninstall."""
    running = start("uninstall", machine, {"orthanc_install_confirm_uninstall": machine})
    assert running.stdout
    moment = random.Random(f"{SEED} {machine}").randint(*MOMENTS)
    for line in running.stdout:
        moment -= line.startswith("TASK [")
        if not moment:
            break
    assert moment == 0
    subprocess.run(["pkill", "-9", "--parent", str(running.pid)], check=False)
    running.kill()
    running.wait()


def leave_upgrade(machine: str) -> None:
    """What an upgrade leaves that went back and whose old Orthanc did not take an image."""
    must(machine, f"mkdir -p -m 700 {UPGRADE}/arrived {UPGRADE}/etc/orthanc/site")
    put(machine, f"{UPGRADE}/arrived/1.dcm", b"an image that no Orthanc has")
    put(machine, f"{UPGRADE}/etc/orthanc/site/orthanc.json", b'{"RegisteredUsers": {"viewer": "a password"}}')


def test_what_was_deployed_goes(images: dict[str, dict[str, str]]) -> None:
    """One of them after it was cut off; and a second time nothing changes."""
    leave_upgrade(CONTAINER)
    cut_off(PACKAGE)
    for machine, (status, told) in on_all(uninstall).items():
        assert status == 0, told[-3000:]
        require_uninstalled(machine)
        assert (f"1 image in {UPGRADE}/arrived that came" in told) == (machine == CONTAINER)
    assert must(CONTAINER, f"find {UPGRADE} -type f").split() == [f"{UPGRADE}/arrived/1.dcm"]
    for status, told in on_all(lambda machine: uninstall(machine, confirm="")).values():
        assert status == 0, told[-3000:]
        assert " changed=0 " in told, told[-3000:]


def test_a_stock_orthanc_opens_the_images(images: dict[str, dict[str, str]]) -> None:
    """The vendor's, on loopback, with nothing of a deploy."""
    on_all(start_stock)
    try:
        assert on_all(lambda machine: read_images(machine, "nobody:nothing")) == images
    finally:
        on_all(
            lambda machine: must(machine, "systemctl stop stock || true; docker rm --force stock 2>/dev/null || true")
        )


def start_stock(machine: str) -> None:
    options = {
        "StorageDirectory": STORAGE,
        "IndexDirectory": STORAGE,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "HttpPort": 8042,
    }
    put(machine, "/tmp/stock.json", json.dumps(options).encode())
    if machine == CONTAINER:
        mounts = f"--volume {STORAGE}:{STORAGE} --volume /tmp/stock.json:/tmp/stock.json"
        run = f"docker run --detach --name stock --network host {mounts} --entrypoint Orthanc clinic/orthanc:carried"
    else:
        run = "systemd-run --quiet --unit stock --property User=orthanc /usr/sbin/Orthanc"
    must(machine, f"chmod 644 /tmp/stock.json && {run} /tmp/stock.json")


def test_data_stay_until_the_name_is_given_also_when_the_programs_have_gone(images: dict[str, dict[str, str]]) -> None:
    """A waiver that comes later."""
    machines = (PACKAGE, CONTAINER)
    settings = {"orthanc_waivers": dict.fromkeys(("removes_images", "removes_last_copy"), "the clinic is closed")}
    files = "find /var/lib/orthanc | sort"
    before = on_all(lambda machine: must(machine, files), machines)
    for status, told in on_all(lambda machine: uninstall(machine, confirm="", **settings), machines).values():
        assert status != 0, told[-3000:]
        assert re.search(r"Goes for good: [1-9]\d* files of images, [^']* and the index, in " + STORAGE, told), told
        assert "was not given" in told
    assert on_all(lambda machine: must(machine, files), machines) == before


def test_what_an_adoption_had_put_away_is_offered_back(images: dict[str, dict[str, str]]) -> None:
    """The commands that an uninstall printed bring the old server back as it was."""
    status, told = uninstall(ADOPTED, "--check")
    assert status == 0, told
    commands = re.findall(r"- 'Of before the adoption: [^:']*: ([^']*)'", told)
    assert len(commands) >= 3, told
    for command in commands:
        if not command.startswith("rm -r"):
            must(ADOPTED, command)
    assert read_images(ADOPTED, GUIDE) == images[ADOPTED]
    different = compare(read_before(ADOPTED), record(ADOPTED))
    assert [
        name for name in different if re.fullmatch(r"file /etc(/orthanc(/[a-z-]+[.]json)?)?|unit orthanc[.].*", name)
    ] == []


def test_a_deploy_finds_the_images(images: dict[str, dict[str, str]]) -> None:
    machines = (PACKAGE, CONTAINER)
    for status, told in on_all(lambda machine: play("deploy", machine), machines).values():
        assert status == 0, told[-3000:]
        assert " passed, 0 failed" in told
    for machine, found in on_all(read_images, machines).items():
        assert found == images[machine]


def test_data_go_with_a_waiver_and_the_name(images: dict[str, dict[str, str]]) -> None:
    waivers = {
        "removes_images": "the clinic is closed, and its archive is elsewhere",
        "removes_backups": "the clinic is closed, and its archive is elsewhere",
        "removes_last_copy": "the clinic is closed, and its archive is elsewhere",
    }
    restic = "RESTIC_PASSWORD=scenario-backup-password restic -r /srv/repository snapshots --json --no-cache"
    assert len(json.loads(must(PACKAGE, restic))) > 0
    machines = (PACKAGE, CONTAINER)
    for status, told in on_all(lambda machine: uninstall(machine, orthanc_waivers=waivers), machines).values():
        assert status == 0, told[-3000:]
    assert json.loads(must(PACKAGE, restic)) in ([], None)
    for machine in machines:
        assert must(machine, f"find {STORAGE} /var/lib/orthanc/worklists -mindepth 1 2>/dev/null || true") == ""
