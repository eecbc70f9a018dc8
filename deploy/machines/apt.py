"""The host's own apt configuration, for the image: its mirror, its suite, its keys, its way to the network.

No mirror is written down in this project. Read are one-line and deb822 sources; taken are those that carry the
host's own release (a third party's repository of the host is none of the image's business).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.machines.commands import run
from deploy.machines.places import LabError

APT = Path("/etc/apt")
# What may be needed to reach the mirror at all; hooks and cleaning rules of the host stay out.
_NETWORK_SETTING = re.compile(
    r"^Acquire::(http|https|ftp|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|AllowInsecureRepositories"
    r"|AllowWeakRepositories)\b"
)


@dataclass(frozen=True)
class Source:
    """One `deb` source of the host's own release."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None

    def as_deb822(self) -> str:
        fields = ["Types: deb", f"URIs: {self.uri}", f"Suites: {' '.join(self.suites)}"]
        if self.components:
            fields.append(f"Components: {' '.join(self.components)}")
        if self.signed_by:
            fields.append(f"Signed-By: {self.signed_by}")
        return "\n".join(fields) + "\n"


def host_release() -> str:
    """Return the codename of the host's release, such as bookworm or noble."""
    release = Path("/etc/os-release").read_text()
    found = re.search(r'^VERSION_CODENAME="?([a-z]+)', release, re.MULTILINE)
    if found is None:
        raise LabError("the lab needs a Debian or Ubuntu host: /etc/os-release names no codename")
    return found.group(1)


def architecture() -> str:
    return run(["dpkg", "--print-architecture"]).stdout.strip()


def one_line_sources(text: str) -> list[Source]:
    """Parse `deb [options] uri suite component…` lines; others are left out."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            options, uri, suite, components = match.groups()
            signed = re.search(r"signed-by=(\S+)", options or "")
            found.append(Source(uri, (suite,), tuple(components.split()), signed.group(1) if signed else None))
    return found


def deb822_sources(text: str) -> list[Source]:
    """Parse stanzas of `Field: value`; a disabled one and one without `deb` are left out."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and name:
                fields[name] += "\n" + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
            signed = fields.get("signed-by")
            found.append(Source(uri, tuple(suites), tuple(components), signed if signed else None))
    return found


def host_sources(release: str, apt: Path = APT) -> list[Source]:
    """Return the host's sources of its own release; LabError when there is none to take a mirror from."""
    parts = apt / "sources.list.d"
    one_line = [apt / "sources.list", *sorted(parts.glob("*.list"))]
    found = [source for file in one_line if file.is_file() for source in one_line_sources(file.read_text())]
    for file in sorted(parts.glob("*.sources")):
        found += deb822_sources(file.read_text())
    own = []
    for source in found:
        suites = tuple(suite for suite in source.suites if suite == release or suite.startswith(f"{release}-"))
        if suites and "backports" not in " ".join(suites):
            own.append(Source(source.uri, suites, source.components, source.signed_by))
    if not any(release in source.suites for source in own):
        raise LabError(f"the host's apt sources name no mirror for {release}; the image is made from that mirror")
    return own


def network_settings() -> list[str]:
    """Return the host's effective apt settings about reaching a mirror, as lines for apt.conf."""
    dump = run(["apt-config", "dump"], check=False).stdout
    return [line for line in dump.splitlines() if _NETWORK_SETTING.match(line)]


def copy_configuration(root: Path, sources: list[Source]) -> None:
    """Give a chroot the host's mirror, keys and network settings; the chroot keeps no other source."""
    target = root / "etc" / "apt"
    lines = network_settings()
    for folder in ("auth.conf.d", "keyrings", "trusted.gpg.d"):
        if (APT / folder).is_dir():
            shutil.copytree(APT / folder, target / folder, dirs_exist_ok=True)
    needed = [source.signed_by for source in sources if source.signed_by]
    needed += re.findall(r'"(/[^"]+)"', "\n".join(lines))
    for name in needed:
        if name.startswith("/") and Path(name).is_file():
            copy = root / name.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                shutil.copy2(name, copy)
    (target / "sources.list").unlink(missing_ok=True)
    (target / "sources.list.d").mkdir(exist_ok=True)
    (target / "sources.list.d" / "lab.sources").write_text("\n".join(source.as_deb822() for source in sources))
    settings = [*lines, 'Acquire::Languages "none";', 'APT::Install-Recommends "false";']
    (target / "apt.conf.d" / "99lab").write_text("\n".join(settings) + "\n")
