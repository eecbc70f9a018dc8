"""The VMs' image, in two layers: a bare machine as a cloud would hand it out, and what the project installs.

`base`: debootstrap of the host's own release from the host's own mirror, with systemd, sshd and Python.
`baked`: what `ansible/playbooks/pre_install_services.yml` adds, run inside a chroot with a local connection, so
that the play itself is what is tested. After this nothing needs a network outside the lab.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.machines.apt import architecture, copy_configuration, host_release, host_sources
from deploy.machines.cache import cached, files_below, key_of
from deploy.machines.chroot import Bind, Job, Layers, in_layers, isolated
from deploy.machines.commands import run, run_logged
from deploy.machines.fleet import GROUP_VARS, INVENTORY, Fleet
from deploy.machines.places import CHECKOUT, LabError, cache_dir
from deploy.machines.tools import Tools

# A cloud image's contents, no more: whatever else the fleet needs, its own play must install.
BASE_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "python3",
    "python3-apt",
    "sudo",
    "iproute2",
    "iputils-ping",
    "procps",
    "ca-certificates",
    "netbase",
    "kmod",
    "less",
)
FALLBACK_PACKAGES = (
    "python3-venv",
    "iputils-arping",
    "curl",
    "nginx",
    "libnginx-mod-stream",
    "nodejs",
    "mariadb-server",
    "mariadb-backup",
    "rabbitmq-server",
    "nftables",
)
PRE_INSTALL = CHECKOUT / "ansible" / "playbooks" / "pre_install_services.yml"
CHROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Where inside the chroot the host's things appear while it is worked on.
BAKE = "/run/bake"
SOURCES_INSIDE = f"{BAKE}/checkout"
BASE_VERSION = "base 6"
BAKE_VERSION = "bake 4"

HOST_KEYS_UNIT = """\
[Unit]
Description=Make this machine's own SSH host keys at its first boot
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
"""
# A VM is for its services: nothing in it fetches or rotates by itself while a fault is being measured.
MASKED_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "man-db.timer",
    "dpkg-db-backup.timer",
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
    "systemd-resolved.service",
)

# Says which build of a layer this is: what lies on top of it belongs to that build and to no later one.
BUILD_ID = "etc/lab-image-id"

Say = Callable[[str], None]


def build_id(layer: Path) -> str:
    """Return which build of a layer this is."""
    return (layer / BUILD_ID).read_text()


def logs() -> Path:
    return cache_dir() / "logs"


def host_ca_bundle() -> Path | None:
    """Return the certificates that the host trusts: it may stand behind a proxy with its own authority."""
    candidates = [os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    for name in [*candidates, "/etc/ssl/certs/ca-certificates.crt"]:
        if name and Path(name).is_file():
            return Path(name)
    return None


def chroot_environment() -> dict[str, str]:
    """Return the host's settings of pip, proxies and certificates as they hold inside the chroot."""
    env = {"PATH": CHROOT_PATH, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    for name, value in os.environ.items():
        is_proxy = name.lower() in {"http_proxy", "https_proxy", "no_proxy", "all_proxy"}
        if is_proxy or (name.startswith("PIP_") and not value.startswith("/")):
            env[name] = value
    env["PIP_CACHE_DIR"] = f"{BAKE}/pip"
    if Path("/etc/pip.conf").is_file():
        env["PIP_CONFIG_FILE"] = f"{BAKE}/pip.conf"
    if host_ca_bundle() is not None:
        for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
            env[name] = f"{BAKE}/ca.crt"
    return env


def chroot_binds() -> tuple[Bind, ...]:
    """Return what every job in the image sees of the host: name resolution, trust, download caches."""
    archives, pip = cache_dir() / "downloads" / "apt", cache_dir() / "downloads" / "pip"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    pip.mkdir(parents=True, exist_ok=True)
    binds = [
        Bind(archives, "/var/cache/apt/archives", writable=True),
        Bind(pip, f"{BAKE}/pip", writable=True),
        Bind(Path("/etc/resolv.conf").resolve(), "/etc/resolv.conf"),
    ]
    bundle, pip_conf = host_ca_bundle(), Path("/etc/pip.conf")
    if bundle is not None:
        binds.append(Bind(bundle, f"{BAKE}/ca.crt"))
    if pip_conf.is_file():
        binds.append(Bind(pip_conf, f"{BAKE}/pip.conf"))
    return tuple(binds)


def base(say: Say) -> Path:
    """Return the base layer, made from the host's release and mirror when it is not in the cache."""
    release, arch = host_release(), architecture()
    sources = host_sources(release)
    key = key_of(
        texts=[BASE_VERSION, release, arch, HOST_KEYS_UNIT, *(source.as_deb822() for source in sources)],
        relative_to=CHECKOUT,
    )

    def build(folder: Path) -> None:
        say(f"making the base image: debootstrap of {release}, then {len(BASE_PACKAGES)} packages (2 minutes, once)")
        mirror = next(source for source in sources if release in source.suites)
        archives = chroot_binds()[0].source
        argv = ["debootstrap", "--variant=minbase", f"--arch={arch}", f"--cache-dir={archives}"]
        argv.append(f"--components={','.join(mirror.components or ('main',))}")
        argv.append("--include=ca-certificates")
        if mirror.signed_by and mirror.signed_by.startswith("/"):
            argv.append(f"--keyring={mirror.signed_by}")
        run_logged(isolated([*argv, release, folder, mirror.uri]), logs() / "base.log")
        copy_configuration(folder, sources)
        (folder / "usr" / "sbin" / "policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (folder / "usr" / "sbin" / "policy-rc.d").chmod(0o755)
        for words in (("update",), ("dist-upgrade", "-y"), ("install", "-y", *BASE_PACKAGES)):
            _in_root(folder, ("apt-get", "-q", *words), "base.log")
        _make_a_cloud_image(folder)

    return cached("base", key, build)


def _in_root(root: Path, argv: tuple[str, ...], log: str) -> None:
    in_layers(Job(root, argv, chroot_environment(), binds=chroot_binds()), logs() / log)


def _make_a_cloud_image(root: Path) -> None:
    """Remove what must be unique per machine, and set what an image has set."""
    for key in (root / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()
    (root / BUILD_ID).write_text(secrets.token_hex(8))
    (root / "etc" / "machine-id").write_text("")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    (root / "etc" / "resolv.conf").write_text("")
    (root / "etc" / "hostname").unlink(missing_ok=True)
    (root / "etc" / "default" / "locale").write_text("LANG=C.UTF-8\n")
    (root / "var" / "log" / "journal").mkdir(exist_ok=True)
    journal = root / "etc" / "systemd" / "journald.conf.d"
    journal.mkdir(parents=True, exist_ok=True)
    (journal / "lab.conf").write_text("[Journal]\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n")
    (root / "etc" / "systemd" / "system" / "ssh-host-keys.service").write_text(HOST_KEYS_UNIT)
    run(["systemctl", f"--root={root}", "enable", "ssh-host-keys.service"])
    run(["systemctl", f"--root={root}", "mask", *MASKED_UNITS])
    ssh = root / "root" / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)


def control(lower: Path, say: Say) -> Path:
    """Return a directory with ansible-core for the chroot's Python.

    It is bound into the chroot and is no part of the image: a real fleet's VMs do not have the operator's
    Ansible either, so a package that the play forgets is missed here as well. pip comes from the host's
    environment, being pure Python, because the base image has none.
    """
    import pip

    key = key_of(texts=[BAKE_VERSION, build_id(lower)], relative_to=CHECKOUT)

    def build(folder: Path) -> None:
        say("fetching ansible-core for the bake")
        pip_home = folder / ".pip"
        pip_home.mkdir()
        shutil.copytree(Path(pip.__file__).parent, pip_home / "pip")
        upper, work, root = folder / ".upper", folder / ".work", folder / ".root"
        for path in (upper, work, root):
            path.mkdir()
        environment = {**chroot_environment(), "PYTHONPATH": f"{BAKE}/control/.pip"}
        argv = ("python3", "-m", "pip", "install", "--target", f"{BAKE}/control", "ansible-core>=2.15")
        binds = (*chroot_binds(), Bind(folder, f"{BAKE}/control", writable=True))
        in_layers(Job(root, argv, environment, Layers((lower,), upper, work), binds), logs() / "control.log")
        for path in (upper, work, root, pip_home):
            shutil.rmtree(path)
        (folder / "play.py").write_text(
            "import sys\n"
            f"sys.path.insert(0, '{BAKE}/control')\n"
            "from ansible.cli.playbook import main\n"
            "main(['ansible-playbook', *sys.argv[1:]])\n"
        )

    return cached("control", key, build)


def roles_used(playbook: Path) -> list[Path]:
    """Return the folders of the roles that a playbook uses, with the roles that those use."""
    import yaml

    roles = CHECKOUT / "ansible" / "roles"
    found: dict[str, Path] = {}
    pending = [playbook]
    while pending:
        for name in role_names(yaml.safe_load(pending.pop().read_text())):
            if name not in found and (roles / name).is_dir():
                found[name] = roles / name
                pending += [*(roles / name).glob("tasks/*.yml"), *(roles / name).glob("meta/*.yml")]
    return [found[name] for name in sorted(found)]


def role_names(document: object) -> Iterator[str]:
    """Find the roles that a play, a list of tasks or a role's dependencies name."""
    if isinstance(document, list):
        for item in document:
            yield from role_names(item)
    elif isinstance(document, dict):
        for key, value in document.items():
            listed = value if key in ("roles", "dependencies") and isinstance(value, list) else []
            named = [value] if str(key).endswith(("import_role", "include_role")) else []
            for role in [*listed, *named]:
                name = role.get("role") or role.get("name") if isinstance(role, dict) else role
                if isinstance(name, str):
                    yield name
            yield from role_names(value)


def bake_key(lower: Path, tools: Tools) -> str:
    """Return the key of the baked layer: the play, its roles, group variables, inventory, dependencies, tools."""
    below = build_id(lower)
    if not PRE_INSTALL.is_file():
        return key_of(texts=[BAKE_VERSION, below, *FALLBACK_PACKAGES], relative_to=CHECKOUT)
    paths = [PRE_INSTALL, *roles_used(PRE_INSTALL)]
    words = words_in(paths)
    for folder in ("library", "filter_plugins", "lookup_plugins"):
        plugins = sorted((CHECKOUT / "ansible" / folder).glob("*.py"))
        paths += [plugin for plugin in plugins if plugin.stem in words]
    paths += sorted((CHECKOUT / "ansible" / "module_utils").glob("*.py"))
    dependencies = dependency_section((CHECKOUT / "setup.cfg").read_text())
    program = [f"{path.name} {path.stat().st_size}" for path in (tools.consul, tools.consul_template)]
    texts = [BAKE_VERSION, below, dependencies, *program, *variables_used(words)]
    return key_of(texts=texts, paths=paths, relative_to=CHECKOUT)


def words_in(paths: list[Path]) -> set[str]:
    text = "\n".join(file.read_text(errors="replace") for path in paths for file in files_below(path))
    return set(re.findall(r"\w+", text))


def variables_used(words: set[str]) -> list[str]:
    """Return those group variables, with their values, that are among the words of what the bake runs.

    Not all of them: a changed timing of Consul is no reason to install everything anew.
    """
    import yaml

    found = []
    for folder in GROUP_VARS:
        for file in sorted(folder.rglob("*.y*ml")) if folder.is_dir() else []:
            document = yaml.safe_load(file.read_text())
            if isinstance(document, dict):
                found += [f"{name}={value!r}" for name, value in document.items() if name in words]
    return found


def dependency_section(setup_cfg: str) -> str:
    """Return the [options] section of setup.cfg: what pip installs follows from it."""
    kept, inside = [], False
    for line in setup_cfg.splitlines():
        if line.startswith("["):
            inside = line.strip() == "[options]"
        if inside:
            kept.append(line)
    return "\n".join(kept)


def baked(fleet: Fleet, tools: Tools, say: Say) -> list[Path]:
    """Return the image's layers, the topmost first."""
    lower = base(say)
    key = bake_key(lower, tools)
    log = logs() / f"bake-{key}.log"

    def build(folder: Path) -> None:
        log.unlink(missing_ok=True)
        upper, work, root = folder / "layer", folder / ".work", folder / ".root"
        for path in (upper, work, root):
            path.mkdir(mode=0o755)
        if PRE_INSTALL.is_file():
            say("baking the image with ansible/playbooks/pre_install_services.yml (1 to 4 minutes)")
            argv, binds = _bake_by_play(fleet, tools, control(lower, say))
        else:
            say("baking the image with a fixed list of packages: there is no pre_install_services.yml")
            argv, binds = ("apt-get", "-q", "install", "-y", *FALLBACK_PACKAGES), ()
        layers = Layers((lower,), upper, work)
        job = Job(root, argv, chroot_environment(), layers, (*chroot_binds(), *binds))
        in_layers(job, log)
        for path in (work, root):
            shutil.rmtree(path)
        _undo_what_was_for_the_bake(upper)

    entry = cached("image", key, build)
    return [entry / "layer", lower]


def _bake_by_play(fleet: Fleet, tools: Tools, ansible: Path) -> tuple[tuple[str, ...], tuple[Bind, ...]]:
    inside = Path(SOURCES_INSIDE)
    argv = (
        "python3",
        f"{BAKE}/control/play.py",
        *("-i", str(inside / INVENTORY.relative_to(CHECKOUT))),
        *("-c", "local", "-e", "ansible_connection=local", "-e", "ansible_become=false"),
        *("-e", "ansible_python_interpreter=/usr/bin/python3", "-e", "target_hosts=all"),
        *("-e", f"consul_binary={BAKE}/consul", "-e", f"consul_template_binary={BAKE}/consul-template"),
        *("--limit", fleet.vms[0].name),
        str(inside / PRE_INSTALL.relative_to(CHECKOUT)),
    )
    binds = (
        Bind(CHECKOUT, SOURCES_INSIDE),
        Bind(ansible, f"{BAKE}/control"),
        Bind(tools.consul, f"{BAKE}/consul"),
        Bind(tools.consul_template, f"{BAKE}/consul-template"),
    )
    return argv, binds


def _undo_what_was_for_the_bake(layer: Path) -> None:
    """Remove the bake's traces, so that every VM makes its own keys and names and starts its own services."""
    (layer / BUILD_ID).write_text(secrets.token_hex(8))
    for key in (layer / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()
    for name in ("etc/machine-id", "etc/resolv.conf", "etc/hostname"):
        (layer / name).unlink(missing_ok=True)
    policy = layer / "usr" / "sbin" / "policy-rc.d"
    policy.parent.mkdir(parents=True, exist_ok=True)
    policy.unlink(missing_ok=True)
    # In an overlay a character device 0/0 hides the file of the layer below.
    os.mknod(policy, 0o20000, os.makedev(0, 0))
    for folder in ("var/lib/apt/lists", "var/cache/apt/archives", "root/.ansible", "root/.cache"):
        shutil.rmtree(layer / folder, ignore_errors=True)


def require_root() -> None:
    """Raise LabError without root: mounts and namespaces of other machines need it."""
    if os.geteuid() != 0:
        raise LabError("the lab makes machines, mounts and network namespaces: run it as root")
    if sys.platform != "linux":
        raise LabError("the lab needs Linux")
