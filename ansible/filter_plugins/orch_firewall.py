"""The inventory's firewall rules as lines of nftables (templates/firewall.nft.j2)."""

from __future__ import annotations

import ipaddress
import re

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_KEYS = {"what", "tcp", "udp", "from", "to"}


def ports_of(what, ports):
    """Return ports and ranges as nftables writes them; raises ValueError with a sentence where one is none."""
    found = []
    for port in ports:
        parts = _PORT.fullmatch(str(port))
        numbers = [int(number) for number in parts.groups() if number] if parts else []
        if not numbers or sorted(numbers) != numbers or not all(0 < number < 65536 for number in numbers):
            raise ValueError(f"firewall, {what}: {port!r} is no port (such as 443, or 8000-8010)")
        found.append("-".join(str(number) for number in numbers))
    return sorted(set(found), key=lambda port: int(port.partition("-")[0]))


def sources_of(names, addresses, what="the fleet"):
    """Return what nftables compares a packet's source with, one match for each family of addresses."""
    networks = []
    for name in names:
        try:
            networks.append(ipaddress.ip_network(addresses.get(name, name), strict=False))
        except ValueError:
            raise ValueError(f"firewall, {what}: {name!r} is neither a VM of the fleet nor an address") from None
    matches = []
    for version, match in ((4, "ip saddr"), (6, "ip6 saddr")):
        own = ipaddress.collapse_addresses(network for network in networks if network.version == version)
        texts = [str(net.network_address if net.num_addresses == 1 else net) for net in own]
        matches += [f"{match} {{ {', '.join(texts)} }}"] if texts else []
    return matches


def firewall_lines(rules, vm, addresses):
    """Return the lines with which the VM accepts new connections.

    `addresses`: by VM. Raises ValueError with a sentence for a rule that cannot be meant.
    """
    lines = []
    for rule in rules:
        what = str(rule.get("what", "a rule without `what`"))
        if strange := sorted(set(rule) - _KEYS):
            raise ValueError(f"firewall, {what}: {strange[0]!r} is none of {', '.join(sorted(_KEYS))}")
        if strange := sorted(set(rule.get("to", ())) - set(addresses)):
            raise ValueError(f"firewall, {what}: {strange[0]!r} is no VM of the fleet")
        if '"' in what or not what.isprintable():
            raise ValueError(f"firewall, {what!r}: no quotes and no control characters, please")
        sources = sources_of(rule["from"], addresses, what) if "from" in rule else [""]
        for protocol in ("tcp", "udp"):
            ports = ports_of(what, rule.get(protocol, ()))
            if ports and vm in rule.get("to", addresses):
                words = f'{protocol} dport {{ {", ".join(ports)} }} accept comment "{what}"'
                lines += [f"{source} {words}".strip() for source in sources]
    return lines


class FilterModule:
    """Ansible's way of finding the filters."""

    def filters(self):
        return {"firewall_lines": firewall_lines, "firewall_sources": sources_of}
