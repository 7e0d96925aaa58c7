#!/usr/bin/env python3
"""The test bed: a container engine, base images, networks and machines.

It uses the running Docker Engine. If none is running, it starts Debian's as
root, and remembers the pid. As root on Debian it builds the images from the
archive that the host itself uses (mmdebstrap), anywhere else from
`debian:<suite>`; BED_BASE names another base image than `debian`. The images
are tagged with a hash of their recipe, so a second run builds nothing.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import hashlib
import io
import ipaddress
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

STATE = Path(__file__).resolve().parents[2] / ".bed"
PID_FILE = STATE / "dockerd.pid"
# where Debian's engine has its pid, and what its runc knows of the containers that run
ENGINE_PID, CONTAINERS = Path("/run/docker.pid"), Path("/run/docker/runtime-runc/moby")

MACHINE = [
    *("systemd", "systemd-sysv", "dbus", "python3", "python3-apt", "iproute2", "nftables"),
    *("procps", "sudo", "cron", "ca-certificates", "tzdata"),
    "openssh-server",  # for Ansible's connection alone (see `connect`): nothing listens
]
# Orthanc 1.13.0 and DICOMweb 1.24, as in the image orthancteam/orthanc 26.8.x
ORTHANC = ["orthanc", "orthanc-dicomweb", "orthanc-python", "python3", "ca-certificates", "tzdata"]
# the clinic's own registry
REGISTRY = ["docker-registry", "skopeo", "apache2-utils", "ca-certificates"]
# an ACME server, and the name server that it asks
ACME = ["pebble", "bind9", "curl", "ca-certificates"]
CLIENT = [
    *("dcmtk", "curl", "openssl", "iproute2", "ca-certificates"),
    *("python3", "openssh-client", "testssl.sh", "bsdextrautils", "dnsutils"),
    "openssh-server",  # as in a machine
]
# where backups go: restic's REST server, and SFTP
REPOSITORY = [*MACHINE, "restic", "restic-rest-server", "apache2-utils"]
IMAGES: dict[str, tuple[str, list[str]]] = {
    "debian12": ("bookworm", MACHINE),
    "debian13": ("trixie", MACHINE),
    "client": ("trixie", CLIENT),
    "orthanc": ("forky", ORTHANC),
    # the releases of the packages of Debian 12 and 13, as images
    "orthanc-debian12": ("bookworm", ORTHANC),
    "orthanc-debian13": ("trixie", ORTHANC),
    # the same with its index in PostgreSQL, in one container
    "orthanc-postgresql": ("trixie", [*ORTHANC, "orthanc-postgresql", "postgresql"]),
    "registry": ("trixie", REGISTRY),
    "acme": ("trixie", ACME),
    "repository": ("trixie", REPOSITORY),
}
WITHOUT_SYSTEMD = ("client", "registry", "acme")
# A clinic's machine. Its own SSH service runs only where a scenario starts it. Installing takes a third less time when
# dpkg does not wait for the disk and apt fetches no descriptions.
COMPILED = base64.b64encode(Path(__file__).resolve().with_name("compiled.py").read_bytes()).decode()
PACKAGES = "/usr/lib/python3/dist-packages"
CLINIC = (
    "systemctl disable ssh.service"
    f" && echo {COMPILED} | base64 -d > {PACKAGES}/bed_compiled.py"
    f" && echo import bed_compiled > {PACKAGES}/bed_compiled.pth"
    f" && python3 -m compileall -q {PACKAGES}/bed_compiled.py"
    " && echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/bed"
    ' && echo "Acquire::Languages { none; };" > /etc/apt/apt.conf.d/99bed'
)
AFTERWARDS = {"debian12": CLINIC, "debian13": CLINIC}
# Machines of scenarios that do not test the installation. What a deploy installs is there already, with all libraries;
# of what has a service, or what a deploy looks for, only the package file. What a role installs is in one of these two
# lists (tests/unit/test_bed.py).
INSTALLED = [
    *("acl", "ca-certificates", "cron", "dcmtk", "distro-info-data", "nftables", "openssh-client", "openssh-server"),
    *("openssl", "python3-cryptography", "python3-jinja2", "python3-openpyxl", "python3-pydicom", "python3-requests"),
    "restic",
]
FETCHED = [
    *("orthanc", "orthanc-dicomweb", "orthanc-python", "nginx-light", "libnginx-mod-stream", "systemd-timesyncd"),
    *("prometheus-node-exporter", "msmtp-mta", "docker.io", "iptables"),
]
READY = {"ready12": ("debian12", FETCHED), "ready13": ("debian13", [*FETCHED, "docker-cli"])}
GET_READY = """
set -e
export DEBIAN_FRONTEND=noninteractive
rm -f /etc/apt/apt.conf.d/docker-clean
apt-get update -qq
apt-get install -qq -y --no-install-recommends --download-only $INSTALLED $FETCHED
libraries=$(apt-get install -qq -s --no-install-recommends $FETCHED \
  | awk '$1 == "Inst" && $2 ~ "^lib|^locales" && $2 !~ "^libnginx-" { print $2 }')
apt-get install -qq -y --no-install-recommends $INSTALLED $libraries
"""
# As Ubuntu as Debian's packages allow; none of Ubuntu's own packages is there. The machine says that it is Ubuntu, and
# has what Ubuntu has and Debian has not: ufw, netplan, systemd-resolved, needrestart that restarts services by itself,
# unattended-upgrades (not in the middle of a test), AppArmor's tools, sshd behind ssh.socket. 26.04 has sudo-rs as sudo
# and uutils as coreutils as well; what they replace is beside them as sudo.ws and gnu….
LIKE_UBUNTU = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get install -qq -y --no-install-recommends \
  apparmor needrestart netplan.io systemd-resolved ufw unattended-upgrades
systemctl disable ssh.service
systemctl enable ssh.socket
systemctl mask apt-daily.timer apt-daily-upgrade.timer
echo "\\$nrconf{restart} = 'a';" > /etc/needrestart/conf.d/ubuntu.conf
mkdir /etc/systemd/resolved.conf.d
printf '[Resolve]\\nDNS=127.0.0.11\\n' > /etc/systemd/resolved.conf.d/bed.conf
# Docker mounts its own file here
cat > /etc/systemd/system/bed-resolv.service <<END
[Service]
Type=oneshot
ExecStart=sh -c 'umount /etc/resolv.conf; ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf'
[Install]
WantedBy=sysinit.target
END
systemctl enable bed-resolv.service
"""
LIKE_UBUNTU_26 = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get install -qq -y --no-install-recommends rust-coreutils sudo-rs
replace() {
  dpkg-divert --quiet --local --rename --divert "$2" --add "$1"
  /usr/lib/cargo/bin/coreutils/ln -s "$3" "$1"
}
replace /usr/bin/sudo /usr/bin/sudo.ws /usr/lib/cargo/bin/sudo
for program in /usr/lib/cargo/bin/coreutils/*; do  # ln is among them
  name=${program##*/}
  [ ! -e "/usr/bin/$name" ] || replace "/usr/bin/$name" "/usr/bin/gnu$name" "$program"
done
"""
UBUNTU = {
    "ubuntu24": ("ready13", "24.04", "noble", LIKE_UBUNTU),
    "ubuntu26": ("ubuntu24", "26.04", "resolute", LIKE_UBUNTU_26),
}
SAY_UBUNTU = """
cat > /usr/lib/os-release <<END
PRETTY_NAME="Ubuntu $VERSION LTS"
NAME="Ubuntu"
VERSION_ID="$VERSION"
VERSION="$VERSION LTS"
VERSION_CODENAME=$CODENAME
UBUNTU_CODENAME=$CODENAME
ID=ubuntu
ID_LIKE=debian
END
"""
# A machine with a kernel of its own, and so with a clock of its own, for a scenario that sets it: a container has its
# host's. User Mode Linux runs as a process in the container, with a disk that is a copy of the container's files.
UML = {"uml12": "ready12"}
GET_UML = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends e2fsprogs kmod logrotate netcat-openbsd user-mode-linux
mkdir -p /usr/lib/modules
for modules in /usr/lib/uml/modules/*; do
  ln -sfn "$modules" /usr/lib/modules/
  depmod "${modules##*/}"
done
# neither a console nor a time server
systemctl mask getty.target console-getty.service systemd-networkd-wait-online.service
cat > /etc/systemd/system/bed-network.service <<'END'
[Unit]
DefaultDependencies=no
Before=network.target bed-ssh.socket
[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/bed
ExecStart=sh -c 'ip link set lo up; ip link set vec0 up; ip address add $BED_ADDRESS dev vec0'
ExecStart=sh -c 'ip address add 169.254.77.2/30 dev vec0; ip route add default via $BED_GATEWAY'
[Install]
WantedBy=sysinit.target
END
cat > /etc/systemd/system/bed-ssh.socket <<'END'
[Socket]
ListenStream=169.254.77.2:22
FreeBind=yes
Accept=yes
MaxConnections=200
[Install]
WantedBy=sockets.target
END
cat > /etc/systemd/system/bed-ssh@.service <<'END'
[Unit]
CollectMode=inactive-or-failed
[Service]
EnvironmentFile=/etc/bed
ExecStart=-sh /etc/bed-ssh
StandardInput=socket
StandardError=null
END
systemctl enable bed-network.service bed-ssh.socket
"""
# Its address is the container's, which keeps one of its own for the connections of Ansible.
BOOT_UML = """
set -e
cd /uml
[ -e disk ] || {
  mkdir -p root
  mount --bind / root  # without what Docker mounts below it
  echo "$HOSTNAME" > root/etc/hostname
  printf '127.0.0.1 localhost\\n%s %s\\n' "${BED_ADDRESS%/*}" "$HOSTNAME" > root/etc/hosts
  echo "nameserver $BED_NAMESERVER" > root/etc/resolv.conf
  tr -d - < /proc/sys/kernel/random/uuid > root/etc/machine-id
  cat > root/etc/bed <<END
BED_ADDRESS=$BED_ADDRESS
BED_GATEWAY=$BED_GATEWAY
BED_KEY="$BED_KEY"
END
  echo "$BED_SSH" > root/etc/bed-ssh
  mke2fs -q -t ext4 -d root disk.part 8G
  umount root
  mv disk.part disk
}
ip link add br0 type bridge
ip tuntap add dev tap0 mode tap
ip address flush dev eth0
for one in eth0 tap0 br0; do
  [ $one = br0 ] || ip link set $one master br0
  ip link set $one up
done
ip address add 169.254.77.1/30 dev br0
exec linux.uml mem=2G ubd0=/uml/disk root=/dev/ubda rw con=null con0=null,fd:1 selinux=0 apparmor=0 \\
  vec0:transport=tap,ifname=tap0,depth=64,gro=1
"""
INTO_UML = "[ ! -d /uml ] || exec nc -N -s 169.254.77.1 169.254.77.2 22\n"
# Each connection of Ansible starts an SSH server of its own, which does not depend on the machine's network, SSH and
# accounts. It does not log, and programs do not see a client address. /run is empty after each start.
KEY = Path.home() / ".ansible" / "cp" / "bed_key"  # beside the connections that are kept
LOCK = KEY.with_name("bed.lock")
# a container's label: the checkout that it belongs to
LABEL = "clinicops-bed"
SERVE_SSH = """
[ -x /usr/sbin/sshd ] || {  # a machine that is older than this package in its image
  export DEBIAN_FRONTEND=noninteractive
  apt-get update && apt-get install -y --no-install-recommends openssh-server && systemctl disable --now ssh.service
} >/dev/null 2>&1 </dev/null
mkdir -p /run/sshd /run/bed && cd /run/bed || exit
# two connections may start at once
echo "$BED_KEY" > $$.pub && mv $$.pub authorized_keys
[ -e host_key ] || { ssh-keygen -q -t ed25519 -N '' -f $$ && mv $$ host_key; } || exit
cd /
exec /usr/sbin/sshd -i -f /dev/null -o HostKey=/run/bed/host_key -o AuthorizedKeysFile=/run/bed/authorized_keys \
  -o StrictModes=no -o UsePAM=no -o MaxSessions=100 -o LogLevel=QUIET \
  -o ForceCommand='exec env -u SSH_CLIENT -u SSH_CONNECTION -u SSH_ORIGINAL_COMMAND sh -c "$SSH_ORIGINAL_COMMAND"'
"""
# An RFC 5737 documentation network in three parts, so that the example inventory runs here unchanged. Each part has an
# IPv6 network (RFC 3849) too, and a machine has the same last number in both.
NETWORKS = {
    "clinic": ("198.51.100.0/26", "2001:db8:100:1::/64"),
    "office": ("198.51.100.64/26", "2001:db8:100:2::/64"),
    "outside": ("198.51.100.128/26", "2001:db8:100:3::/64"),
}
# What systemd needs in a container; a host may refuse --privileged.
CAPABILITIES = [
    *("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD", "SYS_CHROOT", "SETFCAP"),
    *("AUDIT_WRITE", "DAC_READ_SEARCH", "IPC_LOCK", "SYS_NICE", "SYSLOG", "LINUX_IMMUTABLE", "LEASE"),
]
SYSTEMD = [
    *(f"--cap-add={capability}" for capability in CAPABILITIES),
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    "--cgroupns=host",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--tmpfs=/tmp",
    "--env=container=docker",
    "--stop-signal=SIGRTMIN+3",
]


def say(text: str) -> None:
    print(f"bed: {text}", file=sys.stderr, flush=True)


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        sys.exit(f"bed: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done


HELD: list[bool] = []  # the lock, by this process


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Two scenarios may run side by side, and two checkouts use one engine: while one installs, or creates images and
    networks, the other waits.

    A process that holds the lock may take it again."""
    LOCK.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        if not HELD:
            fcntl.flock(lock, fcntl.LOCK_EX)
        HELD.append(True)
        try:
            yield
        finally:
            HELD.pop()


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("docker", *arguments, check=check)


def engine_answers() -> bool:
    return bool(shutil.which("docker")) and docker("info", check=False).returncode == 0


def apt_install(*packages: str, instead: str = "No Docker Engine is running. Remedy: start one") -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"bed: {instead}, or run this as root on Debian.")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "-o", "Acquire::Retries=3", "update", "-qq")
    run(
        "apt-get",
        "-o",
        "Acquire::Retries=3",
        "-o",
        "DPkg::Lock::Timeout=600",  # unattended upgrades start when a machine has booted
        "install",
        "-qq",
        "-y",
        "--no-install-recommends",
        *packages,
        env=quiet,
    )


def browser() -> str:
    """The installed Chromium, or Debian's; and poppler's tools, which read what it prints."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if not any(map(shutil.which, names)) or not shutil.which("pdftotext"):
        say("installing Debian's Chromium")
        apt_install("chromium", "poppler-utils", instead="Chromium or pdftotext is missing. Remedy: install both")
    return next(name for name in names if shutil.which(name))


def libraries() -> Path:
    """The directory of the npm packages that the tests' pages use, as tests/bed/npm/package-lock.json pins them."""
    wanted, home, part = Path(__file__).resolve().with_name("npm"), STATE / "npm", STATE / "npm.part"
    lock = "package-lock.json"
    with alone():
        if not home.exists() or (home / lock).read_bytes() != (wanted / lock).read_bytes():
            if not shutil.which("npm"):
                say("installing Debian's npm")
                apt_install("npm", instead="npm is missing. Remedy: install it")
            say("installing the npm packages")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(wanted, part)
            run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", cwd=part)
            shutil.rmtree(home, ignore_errors=True)
            part.rename(home)
    return home / "node_modules"


def engine_up() -> None:
    """Use the running engine, or start Debian's."""
    if engine_answers():
        return
    if not shutil.which("dockerd"):
        say("installing Debian's Docker Engine")
        apt_install("docker.io", "iptables", "mmdebstrap")
    if not shutil.which("docker"):
        apt_install("docker-cli")  # a package of its own from Debian 13 on
    STATE.mkdir(exist_ok=True)
    start = "exec dockerd"
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        # systemd 257 boots on cgroup v2 only; the host's own mounts stay as they are
        start = f"umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; {start}"
    say("starting dockerd")
    with (STATE / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", start],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    PID_FILE.write_text(str(daemon.pid))
    for _ in range(900):
        if engine_answers():
            return
        if daemon.poll() is not None:
            break
        time.sleep(0.2)
    sys.exit(f"bed: dockerd did not start. Remedy: see {STATE / 'dockerd.log'}")


def engine_down() -> None:
    """Stop the engine if this checkout started it."""
    if not PID_FILE.exists():
        return
    pid = int(PID_FILE.read_text())
    PID_FILE.unlink()
    command = Path(f"/proc/{pid}/cmdline")
    if not command.exists() or b"dockerd" not in command.read_bytes():
        return  # the pid belongs to another process by now
    os.kill(pid, signal.SIGTERM)
    for _ in range(300):
        if not command.exists() or not command.read_bytes():
            return
        time.sleep(0.1)


def debian_sources(suite: str) -> list[str]:
    """The mirror that the host itself uses, and its security archive."""
    targets = run(
        "apt-get",
        "indextargets",
        "--format",
        "$(LABEL)|$(REPO_URI)",
        "Created-By: Packages",
    ).stdout.split()
    uris = dict(reversed([target.split("|", 1) for target in targets if "|" in target]))
    if "Debian" not in uris:
        sys.exit("bed: The apt sources name no Debian mirror. Remedy: add one, and run apt-get update")
    sources = [f"deb {uris['Debian']} {suite} main"]
    if "Debian-Security" in uris:
        sources.append(f"deb {uris['Debian-Security']} {suite}-security main")
    return sources


def dockerfile(suite: str, packages: list[str], afterwards: str) -> str:
    last = f" && {afterwards}" if afterwards else ""
    return (
        f"FROM {os.environ.get('BED_BASE', 'debian')}:{suite}\n"
        "RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq"
        f" --no-install-recommends {' '.join(packages)} && rm -rf /var/lib/apt/lists/*{last}\n"
        'CMD ["/lib/systemd/systemd"]\n'
    )


def dockerfile_on(name: str) -> str:
    """The recipe of an image that is made from another one of the bed."""
    if name in UML:
        base, script = UML[name], GET_UML
    elif name in READY:
        base, fetched = READY[name]
        script = f"INSTALLED='{' '.join(INSTALLED)}' FETCHED='{' '.join(fetched)}'{GET_READY}"
    else:
        base, version, codename, become = UBUNTU[name]
        script = f"VERSION={version} CODENAME={codename}{become}{SAY_UBUNTU}"
    return f"FROM {built(base)}\nRUN {json.dumps(['sh', '-c', script])}\n"


def image(name: str) -> str:
    """The tag of an image. A missing image is built, by one process at a time."""
    with alone():
        return built(name)


def built(name: str) -> str:
    suite, packages = IMAGES.get(name, ("", []))
    afterwards = AFTERWARDS.get(name, "")
    is_derived = name in (*READY, *UBUNTU, *UML)
    text = dockerfile_on(name) if is_derived else dockerfile(suite, packages, afterwards)
    tag = f"clinicops-bed/{name}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if docker("image", "inspect", tag, check=False).returncode == 0:
        return tag
    STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STATE) as scratch:
        if is_derived:
            say(f"building image {name} from another one")
            Path(scratch, "Dockerfile").write_text(text)
            docker("build", "-t", tag, scratch)
        elif os.geteuid() == 0 and shutil.which("apt-get") and "BED_BASE" not in os.environ:
            if not shutil.which("mmdebstrap"):
                apt_install("mmdebstrap")
            say(f"building image {name} from Debian {suite}")
            tar = f"{scratch}/image.tar"
            options = ["--variant=minbase", f"--include={','.join(packages)}", '--aptopt=Acquire::Retries "3"']
            if suite == "forky":  # the date of its lists may have passed between two Debian releases
                options.append('--aptopt=Acquire::Check-Valid-Until "false"')
            if afterwards:
                options.append(f'--customize-hook=chroot "$1" sh -c {shlex.quote(afterwards)}')
            run("mmdebstrap", *options, suite, tar, *debian_sources(suite))
            docker("import", "-c", 'CMD ["/lib/systemd/systemd"]', tar, tag)
        else:
            say(f"building image {name} on {os.environ.get('BED_BASE', 'debian')}:{suite}")
            Path(scratch, "Dockerfile").write_text(text)
            docker("build", "-t", tag, scratch)
    return tag


def networks_up() -> None:
    for name, (four, six) in NETWORKS.items():
        if docker("network", "inspect", f"clinicops-{name}", check=False).returncode == 0:
            continue
        refuse_taken(four)
        docker("network", "create", "--ipv6", f"--subnet={four}", f"--subnet={six}", f"clinicops-{name}")


def address6(address: str) -> str:
    """The IPv6 address of the machine that has this IPv4 address."""
    four = ipaddress.ip_address(address)
    six = next(six for net, six in NETWORKS.values() if four in ipaddress.ip_network(net))
    return str(ipaddress.ip_network(six)[int(address.rpartition(".")[2], 16)])


def networks_down() -> None:
    """Remove the networks that no container uses any more; Docker keeps the others."""
    for name in NETWORKS:
        docker("network", "rm", f"clinicops-{name}", check=False)


def refuse_taken(subnet: str) -> None:
    """Refuse a network that the host has a route to: Docker would put its own in its place and cut the host off."""
    if not shutil.which("ip"):
        return  # not Linux: the engine has a machine of its own
    for route in json.loads(run("ip", "-json", "route").stdout):
        taken = route["dst"]
        if taken != "default" and ipaddress.ip_network(taken).overlaps(ipaddress.ip_network(subnet)):
            sys.exit(
                f"bed: This machine has a route to {taken} ({route['dev']}), and the test bed needs {subnet}. "
                "Remedy: use a machine without that route."
            )


def find_owner(name: str) -> str | None:
    """The .bed directory of the checkout that a machine belongs to; None if there is no such machine."""
    found = docker("inspect", f'--format={{{{index .Config.Labels "{LABEL}"}}}}', name, check=False)
    return None if found.returncode else found.stdout.strip()


def machine_up(name: str, kind: str, addresses: list[str]) -> None:
    """Start one container with the given addresses, each in the network that it belongs to."""
    owner = find_owner(name)
    if owner in ("", str(STATE)):  # it may have no label
        return
    if owner is not None:
        sys.exit(
            f"bed: {name} is a machine of {owner}. Remedy: wait until its scenario has ended, or docker rm -f {name}"
        )
    options = [f"--name={name}", f"--hostname={name}", f"--label={LABEL}={STATE}"]
    command: list[str] = []
    if kind in WITHOUT_SYSTEMD:
        command = ["sleep", "infinity"]
        options.append("--init")
    elif kind in UML:
        command = ["sh", "-c", BOOT_UML]
        options += describe_uml(name, addresses[0])
    else:
        # the product refuses images on a container's overlay file system, so a volume stands for the disk
        options += [*SYSTEMD, f"--volume={name}-data:/var/lib/orthanc", "--volume=/var/lib/docker"]
    for number, address in enumerate(addresses):
        subnet = next(
            key for key, (four, _) in NETWORKS.items() if ipaddress.ip_address(address) in ipaddress.ip_network(four)
        )
        given = [f"--ip={address}", f"--ip6={address6(address)}"]
        if number == 0:
            docker("create", *options, f"--network=clinicops-{subnet}", *given, image(kind), *command)
        else:
            docker("network", "connect", *given, f"clinicops-{subnet}", name)
    started = docker("start", name, check=False)
    if started.returncode:
        taken = "Address already in use" in started.stderr
        remedy = " Remedy: remove the other container that has its address (make demo-down, if it is the demo's)."
        sys.exit(f"bed: {name} did not start: {started.stderr.strip()}{remedy if taken else ''}")
    if kind in UML:
        wait_for_kernel(name)
    elif kind not in WITHOUT_SYSTEMD:
        wait_for_systemd(name)


def describe_uml(name: str, address: str) -> list[str]:
    """The options of a container in which a machine with its own kernel runs."""
    networks = [ipaddress.ip_network(four) for four, _ in NETWORKS.values()]
    network = next(one for one in networks if ipaddress.ip_address(address) in one)
    given = {
        "BED_ADDRESS": f"{address}/{network.prefixlen}",
        "BED_GATEWAY": f"{network[1]}",  # Docker's own
        # the host's: that of Docker answers the container alone
        "BED_NAMESERVER": run("awk", "/^nameserver/ { print $2; exit }", "/etc/resolv.conf").stdout.strip(),
        "BED_KEY": read_key(),
        "BED_SSH": SERVE_SSH,
        "TMPDIR": "/uml-memory",
    }
    return [
        *(option for option in SYSTEMD if not option.startswith(("--volume", "--tmpfs", "--stop-signal"))),
        *("--init", "--device=/dev/net/tun", f"--volume={name}-data:/uml", "--tmpfs=/uml-memory:exec,size=3g"),
        *(f"--env={key}={value}" for key, value in given.items()),
    ]


def wait_for_kernel(name: str) -> None:
    """Until the machine with its own kernel lets Ansible in; SystemExit if it does not."""
    ask = ("nc", "-z", "-w", "1", "-s", "169.254.77.1", "169.254.77.2", "22")
    for _ in range(600):
        if docker("exec", name, *ask, check=False).returncode == 0:
            return
        time.sleep(0.2)
    sys.exit(f"bed: {name} did not boot. Remedy: see docker logs {name}")


def wait_for_systemd(name: str) -> None:
    """Until the machine has booted; SystemExit if it does not."""
    for _ in range(1500):
        state = docker("exec", name, "systemctl", "is-system-running", check=False).stdout.strip()
        if state in ("running", "degraded"):
            return
        time.sleep(0.2)
    sys.exit(f"bed: systemd in {name} did not start: {state}. Remedy: see docker logs {name}")


def connection_up() -> None:
    """Create the key that .config/molecule/hosts.yml names, and the directory of the connections."""
    KEY.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if KEY.exists():
        return
    if not shutil.which("ssh-keygen"):
        apt_install("openssh-client", instead="The SSH client is missing. Remedy: install it")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test bed", "-f", str(KEY))


def connect(name: str) -> None:
    """Connect standard input and output to an SSH server in a machine: a ProxyCommand of ssh."""
    command = [*enter(name, f"BED_KEY={read_key()}"), "sh", "-c", INTO_UML + SERVE_SSH]
    os.execvp(command[0], command)


def enter(name: str, variable: str) -> list[str]:
    """The beginning of a command that runs in a container, with its standard input and this environment variable.

    As root beside the engine it is runc's: with `docker exec` every byte would pass through the command, the engine and
    containerd's shim, which takes them as much processor time as Ansible's modules need."""
    found = docker("inspect", "--format={{.Id}}", name).stdout.strip()
    if os.geteuid() == 0 and ENGINE_PID.exists() and (CONTAINERS / found).exists():
        # the engine may have mounts of its own, see engine_up
        namespace = ["nsenter", f"--target={ENGINE_PID.read_text().strip()}", "--mount"]
        return [*namespace, "runc", f"--root={CONTAINERS}", "exec", f"--env={variable}", found]
    return ["docker", "exec", "-i", f"--env={variable}", name]


def read_key() -> str:
    """The public key of the connections."""
    return KEY.with_suffix(".pub").read_text().strip()


def pack(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of files by their paths, for a machine to unpack."""
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return packed.getvalue()


def machine_down(name: str, *, keep_volume: bool = False) -> None:
    """Remove a machine, unless another checkout that still exists uses it."""
    owner = find_owner(name)
    if owner and owner != str(STATE) and Path(owner).exists():
        say(f"{name} stays: it is a machine of {owner}")
        return
    docker("rm", "--force", "--volumes", name, check=False)
    if not keep_volume:
        docker("volume", "rm", "--force", f"{name}-data", check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("engine", help="use the running Docker Engine, or start one")
    commands.add_parser("browser", help="use the installed Chromium, or install it, with what the tests' pages need")
    commands.add_parser("engine-down", help="stop the engine if this checkout started it")
    up = commands.add_parser("up", help="create and start containers")
    up.add_argument("platforms", help='JSON: [{"name", "image", "addresses": [..]}, ..]')
    down = commands.add_parser("down", help="remove containers, their volumes, and networks without a container")
    down.add_argument("names", nargs="+")
    way = commands.add_parser("connect", help="connect to a machine's SSH server, as ssh's ProxyCommand")
    way.add_argument("name")
    chosen = parser.parse_args()
    if chosen.command == "engine":
        with alone():
            engine_up()
    elif chosen.command == "engine-down":
        engine_down()
    elif chosen.command == "browser":
        with alone():
            browser()
            libraries()
    elif chosen.command == "up":
        with alone():
            engine_up()
            networks_up()
            connection_up()
            platforms = json.loads(chosen.platforms)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(built, {platform["image"] for platform in platforms}))
            with ThreadPoolExecutor() as pool:
                for platform in platforms:
                    say(f"machine {platform['name']} ({platform['image']})")
                done = [pool.submit(machine_up, one["name"], one["image"], one["addresses"]) for one in platforms]
            for one in done:
                one.result()
    elif chosen.command == "connect":
        connect(chosen.name)
    else:
        with alone():
            with ThreadPoolExecutor() as pool:
                list(pool.map(machine_down, chosen.names))
            networks_down()


if __name__ == "__main__":
    main()
