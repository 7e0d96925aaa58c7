# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the upgrade of a machine's distribution would do to its Orthanc, and what is in its way (docs/upgrade.md).

The administrator upgrades with apt. Here apt is asked beforehand, with lists of the next release in a directory of
their own, and nothing on the machine is changed. Runs on the machine, standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ansible_collections.clinicops.orthanc.plugins.module_utils import adoption, conffiles, differences, present
from ansible_collections.clinicops.orthanc.plugins.module_utils.neighbours import Problem

from .server.core.errors import Refused
from .server.core.files import read_object
from .server.core.process import Finished, run_program
from .server.core.settings import BACKUP
from .server.core.words import read_size, say_count, say_moment, say_size
from .server.monitor import packages
from .server.monitor.packages import Upgrade

APT = Path("/etc/apt")
CACHE = Path("/var/cache/apt/archives")
SCRATCH = Path("/var/tmp")  # /tmp may be in memory, and the lists are large
OWN = ("Debian", "Ubuntu")  # the distributions' own archives
SHOWN = ("python3", "nginx-light", "nginx-core", "restic", "systemd", "openssh-server")
PROVEN_SECONDS = 86400  # how old the proof of a backup may be
WAIVER = "no_way_back"
SECONDS = 600.0
KEEP = "-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
RESTORE = "-o Dpkg::Options::=--force-confask -o Dpkg::Options::=--force-confnew -o Dpkg::Options::=--force-confmiss"


class Release(NamedTuple):
    """A release of a distribution, such as Debian 13 (trixie)."""

    name: str
    version: str
    codename: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Source(NamedTuple):
    """A file that names archives to apt; `ours`: archives of the distribution, by the release's codename."""

    path: Path
    text: str
    ours: bool


@dataclasses.dataclass
class Planned:
    """What apt would do: by name, from which version to which; what it removes and holds back; bytes."""

    upgrades: dict[str, Upgrade]
    removed: list[str]
    kept_back: list[str]
    download: int = 0
    more: int = 0  # on the disk afterwards; negative where it is less


@dataclasses.dataclass
class Found:
    """All that was found, in sentences; `orthanc` is the release that would come, empty where that is not known."""

    lines: list[str] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    commands: list[str] = dataclasses.field(default_factory=list)
    orthanc: str = ""


# --- apt ----------------------------------------------------------------------------------------
def ask_apt(*command: str, configuration: Path | None = None) -> Finished:
    """What a program of apt's says, in English, without locks; with another configuration."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    if configuration:
        environment["APT_CONFIG"] = str(configuration)
    return run_program(*command, seconds=SECONDS, environment=environment)


def read_apt(*command: str, configuration: Path | None = None) -> str:
    """The same, its output alone; Refused where it fails."""
    done = ask_apt(*command, configuration=configuration)
    if done.status:
        errors = " ".join(line for line in done.errors.splitlines() if line.startswith(("E:", "W:"))) or done.errors
        raise Refused(f"{command[0]} cannot tell what would come: {errors.strip()[:500]}. Remedy: correct it.")
    return done.output


def list_sources(codename: str, foreign: Collection[str], directory: Path = APT) -> list[Source]:
    """The files that apt reads its archives from; `foreign` are addresses of archives of others."""
    paths = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    found = []
    for path in paths:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        active = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        if active.strip():
            ours = re.search(rf"\b{codename}\b", active) and not any(one.rstrip("/") in active for one in foreign)
            found.append(Source(path, text, bool(ours)))
    return found


def list_foreign_archives() -> dict[str, str]:
    """By address: who makes it, of each archive in apt's lists that is not the distribution's own."""
    shown = read_apt("apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)", "Created-By: Packages")
    archives = dict(line.partition("|")[::2] for line in shown.splitlines())
    return {address: origin for address, origin in archives.items() if origin not in OWN}


def write_configuration(sources: list[Source], now: Release, then: Release, directory: Path) -> Path:
    """A configuration of apt's that reads the archives of the next release into this directory; its path.

    It is the machine's own without what apt runs after an update."""
    parts = directory / "sources"
    parts.mkdir()
    for source in sources:
        text = re.sub(rf"\b{now.codename}\b", then.codename, source.text)
        (parts / source.path.name).write_text(text, encoding="utf-8")
    (directory / "lists" / "partial").mkdir(parents=True)
    (directory / "cache" / "archives" / "partial").mkdir(parents=True)
    dumped = read_apt("apt-config", "dump").splitlines()
    kept = [line for line in dumped if not re.match(r"APT::Update::(Pre|Post)-Invoke|DPkg::", line)]
    own = {
        "Dir::Etc::Parts": "/dev/null",
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": parts,
        "Dir::State::Lists": directory / "lists",
        "Dir::Cache": directory / "cache",
        "Dir::Cache::archives": directory / "cache" / "archives",
        "APT::Sandbox::User": "root",
        "APT::Get::Assume-Yes": "false",
        "Debug::NoLocking": "true",
        "Acquire::Languages": "none",
    }
    path = directory / "apt.conf"
    lines = [*kept, *(f'{name} "{value}";' for name, value in own.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def plan_upgrade(configuration: Path) -> Planned:
    """What apt would do with this configuration."""
    simulated = read_apt("apt-get", "--simulate", "dist-upgrade", configuration=configuration)
    # it ends with a question, which nobody answers
    asked = ask_apt("apt-get", "--assume-no", "dist-upgrade", configuration=configuration).output
    return parse_plan(simulated, asked)


def parse_plan(simulated: str, asked: str) -> Planned:
    """From the output of a simulation, and of apt-get up to its question."""
    back = re.search(r"have been kept back:\n((?: .*\n)*)", asked)
    download = re.search(r"Need to get (?:[\d.,]+ \w+/)?([\d.,]+ \w+) of archives", asked)
    more = re.search(r"After this operation, ([\d.,]+ \w+) (?:of additional )?disk space will be (\w+)", asked)
    return Planned(
        packages.parse_simulation(simulated),
        re.findall(r"^Remv (\S+)", simulated, re.MULTILINE),
        back[1].split() if back else [],
        read_size(download[1]) if download else 0,
        read_size(more[1]) * (-1 if more[2] == "freed" else 1) if more else 0,
    )


@contextlib.contextmanager
def ask_next(now: Release, then: Release, sources: list[Source]) -> Iterator[Path]:
    """A configuration of apt's with the lists of the next release, which are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="orthanc-upgrade-", dir=SCRATCH) as scratch:
        configuration = write_configuration(sources, now, then, Path(scratch))
        read_apt("apt-get", "update", "--error-on=any", configuration=configuration)
        yield configuration


# --- what is in the way -------------------------------------------------------------------------
def find_foreign(names: Collection[str], archives: Collection[str]) -> dict[str, str]:
    """Of these packages, those whose installed version is not from the distribution: where it is from."""
    return parse_policy(read_apt("apt-cache", "policy", *names), archives)


def parse_policy(text: str, archives: Collection[str]) -> dict[str, str]:
    """The same, from the output of apt-cache policy."""
    found = {}
    for part in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        name = part.partition(":")[0]
        installed, candidate = (
            re.search(rf"^  {word}: (\S+)", part, re.MULTILINE) for word in ("Installed", "Candidate")
        )
        if not installed or not candidate or installed[1] == "(none)":
            continue
        own = re.search(r"^ \*\*\* .*\n((?:        .*\n?)*)", part, re.MULTILINE)
        places = re.findall(r"^ +-?\d+ (\S+)", own[1] if own else "", re.MULTILINE)
        remote = [place for place in places if not place.startswith("/")]
        foreign = [place for place in remote if any(place.startswith(one.rstrip("/")) for one in archives)]
        if foreign and len(foreign) == len(remote):
            found[name] = foreign[0]
        elif not remote and installed[1] == candidate[1]:
            found[name] = "no archive"
    return found


def find_problems(
    installed: dict[str, packages.Package], needed: Collection[str], archives: Collection[str]
) -> Iterator[Problem]:
    """What is in the way of any upgrade of this machine, whichever release is next."""
    if held := read_apt("apt-mark", "showhold").split():
        yield Problem("apt", f"holds {', '.join(held)} back", f"apt-mark unhold {' '.join(held)}")
    if ask_apt("dpkg", "--audit").output.strip():
        yield Problem("dpkg", "has not finished with each package", "dpkg --configure -a, and apt-get install -f")
    changed = conffiles.list_changed_conffiles()
    if changed:
        owners = sorted({one.package for one in conffiles.list_conffiles() if one.path in changed})
        states = [f"{path} ({'changed' if Path(path).exists() else 'missing'})" for path in changed]
        message = f"differ{'s' if len(states) == 1 else ''} from the package's, which asks about it, or fails"
        remedy = f"put back what the package has: apt-get install --reinstall {RESTORE} {' '.join(owners)}"
        yield Problem(", ".join(states), message, f"{remedy}; Orthanc does not read these files")
    if present.unit_paths() != [present.CONFIGURATION]:
        message = f"does not start Orthanc with {present.CONFIGURATION} alone, as a deploy has it"
        yield Problem("orthanc.service", message, "deploy, so that the new release starts with the clinic's settings")
    foreign = find_foreign([name for name in needed if name in installed], archives)
    for name, place in foreign.items():
        message = f"is from {place}, and not from the distribution"
        remedy = "install the distribution's version, or keep that archive for the next release by yourself"
        yield Problem(f"The package {name}", message, remedy)


def find_space(planned: Planned) -> Iterator[Problem]:
    """A disk that is too small for what apt downloads and installs."""
    for needed, free in adoption.find_small([(CACHE, planned.download), (Path("/usr"), max(0, planned.more))]):
        message = f"has {say_size(free)} free, and apt needs {say_size(needed)} for the new packages"
        yield Problem("The system disk", message, "make room (apt-get clean, old kernels), or enlarge it")


# --- what is said -------------------------------------------------------------------------------
def read_proof(directory: Path) -> float:
    """When a backup was last proven by a restore check, in seconds since 1970; 0 where none was. The directory is that
    of the state files."""
    epoch = read_object(directory / "restore_check.json").get("last_success_epoch")
    return float(epoch) if isinstance(epoch, int | float) else 0.0


def is_proven(clock: float) -> bool:
    """Whether a backup was proven within the last day; `clock` is in seconds since 1970."""
    return 0 <= clock - read_proof(BACKUP) < PROVEN_SECONDS


def compare_options(content: str) -> str:
    """How the machine's orthanc.json differs from this one, in a sentence without values."""
    path = Path(present.CONFIGURATION)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    changed = differences.list_differences(before, content)
    return f"orthanc.json after the next deploy: {'; '.join(changed) or 'no option changes'}."


def strip(version: str) -> str:
    """'1.12.7+dfsg-4' as Orthanc says it: 1.12.7."""
    found = re.match(r"[0-9.]+", version)
    return found[0] if found else version


def describe_now(now: Release, installed: dict[str, packages.Package]) -> Iterator[str]:
    """What is installed, and what apt offers within the release."""
    orthanc = installed["orthanc"].version
    yield f"Installed: {now}, Orthanc {strip(orthanc)} (package {orthanc})."
    offered = packages.simulate_upgrade()
    ours = [f"{name} {one.installed} → {one.candidate}" for name, one in offered.items() if "orthanc" in name]
    ours += [] if len(ours) == len(offered) else [say_count(len(offered) - len(ours), "other package")]
    yield (
        f"Updates within {now}: {', '.join(ours) or 'none'}. apt-get upgrade installs them, or unattended-upgrades at"
        " night; the monitor's next check then runs the acceptance test."
    )


def describe_next(then: Release, planned: Planned, installed: dict[str, packages.Package]) -> Iterator[str]:
    """What would come with the next release."""
    come = planned.upgrades
    new = strip(come["orthanc"].candidate)
    yield f"Offered: {then} ({then.codename}), Orthanc {new} (package {come['orthanc'].candidate})."
    shown = [f"{name} {come[name].installed} → {come[name].candidate}" for name in SHOWN if name in come]
    yield f"apt would upgrade {say_count(len(come), 'package')}: {', '.join(shown)}, …"
    if planned.removed:
        yield f"apt would remove: {', '.join(planned.removed)}."
    if planned.kept_back:
        yield f"apt would hold back: {', '.join(planned.kept_back)}."
    changed = [
        path
        for one in installed.values()
        if not one.name.startswith("orthanc")
        for path in packages.find_changed_conffiles(packages.MACHINE, one)
    ]
    if changed:
        yield (
            f"Changed configuration files, which the commands below keep: {', '.join(changed)}. The new ones are put"
            " beside them as .dpkg-dist, and the monitor names these."
        )
    if left := packages.find_left_behind():
        yield f"Left by earlier updates: {', '.join(left)}. Compare each with the file beside it, then remove it."
    yield f"Disk: {say_size(planned.download)} to download, {say_size(max(0, planned.more))} more afterwards."
    yield (
        "Devices are refused while the package of Orthanc is replaced and while the machine boots, and send again."
        " Nothing that was acknowledged is lost."
    )


def list_commands(now: Release, then: Release, sources: list[Source]) -> list[str]:
    """What the administrator runs on the machine, one after the other."""
    others = [f"mv {one.path} {one.path}.disabled" for one in sources if not one.ours]
    if now.name == "Ubuntu":
        return ["apt-get update", "apt-get upgrade", *others, "do-release-upgrade", "systemctl reboot"]
    named = " ".join(str(one.path) for one in sources if one.ours)
    return [
        "apt-get update",
        f"apt-get upgrade {KEEP}",
        *others,
        f"sed -i 's/\\b{now.codename}\\b/{then.codename}/g' {named}",
        "apt-get update",
        f"apt-get upgrade --without-new-pkgs {KEEP}",
        f"apt-get full-upgrade {KEEP}",
        "systemctl reboot",
    ]


def inspect(now: Release, then: Release | None, needed: Collection[str]) -> Found:
    """All of it. Refused where this machine has no package of Orthanc, or where apt cannot tell."""
    installed = packages.read_installed()
    if "orthanc" not in installed or not Path(present.CONFIGURATION).exists():
        raise Refused("This machine has no Orthanc that was deployed from the package. Remedy: deploy first.")
    found = Found(lines=[*describe_now(now, installed)])
    if not then:
        found.lines.append(f"There is no later system that a deploy was tested on than {now}: nothing to upgrade to.")
        return found
    archives = list_foreign_archives()
    found.problems += find_problems(installed, needed, archives)
    every = list_sources(now.codename, archives)
    ours = [one for one in every if one.ours]
    if not ours:
        message = f"does not name {now.codename} in any file, so it is unknown which lines are the distribution's"
        found.problems.append(Problem("apt", message, f"write {now.codename} for stable in /etc/apt/sources.list"))
        return found
    with ask_next(now, then, ours) as configuration:
        planned = plan_upgrade(configuration)
    if "orthanc" not in planned.upgrades:
        message = f"would not upgrade Orthanc to {then}: {', '.join(planned.kept_back) or 'it says no reason'}"
        found.problems.append(Problem("apt", message, "apt-get full-upgrade on a copy of the machine shows why"))
        return found
    found.lines += describe_next(then, planned, installed)
    found.problems += find_space(planned)
    if gone := [name for name in planned.removed if name in needed]:
        message = f"would remove {', '.join(gone)}, which Orthanc needs here"
        found.problems.append(Problem("apt", message, "remove the package that conflicts with it, and try again"))
    old, found.orthanc = strip(installed["orthanc"].version), strip(planned.upgrades["orthanc"].candidate)
    found.problems.append(describe_way_back(now, then, old, found.orthanc))
    found.lines += [
        f"{one.path}: an archive that is not of {now}; the commands below switch it off."
        for one in every
        if not one.ours
    ]
    epoch = read_proof(BACKUP)
    said = f"last proven {say_moment(epoch)}" if epoch else "never proven"
    found.lines.append(f"Backup: {said}. The phase backup makes one and proves it.")
    found.commands = list_commands(now, then, every)
    return found


def describe_way_back(now: Release, then: Release, old: str, new: str) -> Problem:
    """That there is none on this machine."""
    message = (
        f"has no way back: apt does not go back to {now}, and Orthanc {old} must not open an index that {new} has"
        " opened, since it would take images and lose them"
    )
    remedy = (
        f"what leads back is another machine of {now}, a deploy to it, and a restore of the backup of before; images"
        " that came since are sent again"
    )
    return Problem(f"The upgrade to {then}", message, remedy, WAIVER)
