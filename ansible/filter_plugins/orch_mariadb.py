"""What MariaDB needs: hashes, so that no binlog holds a password; the servers' numbers; which copies lack nothing."""

from __future__ import annotations

import hashlib


def mariadb_password_hash(password: str) -> str:
    """Return what mysql_native_password stores: an asterisk and SHA-1 of SHA-1, in capital hexadecimal digits."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()


def mariadb_server_id(vm: str) -> int:
    """Return a number from 1 to 2**28 for the VM's name: hardly ever will two of a fleet have the same one."""
    return 1 + int(hashlib.sha256(vm.encode()).hexdigest()[:7], 16)


def newest_by_server(gtids: str) -> dict[tuple[int, int], int]:
    """Return the highest sequence number per domain and server."""
    newest: dict[tuple[int, int], int] = {}
    for gtid in filter(None, gtids.split(",")):
        domain, server, sequence = (int(number) for number in gtid.split("-"))
        newest[domain, server] = max(sequence, newest.get((domain, server), 0))
    return newest


def complete_copies(gtids_of: dict[str, str]) -> list[str]:
    """Return the VMs whose copy has every transaction that any copy has; none where two have diverged."""
    known = {vm: newest_by_server(gtids) for vm, gtids in gtids_of.items()}
    every = {place for newest in known.values() for place in newest}
    most = {place: max(newest.get(place, 0) for newest in known.values()) for place in every}
    return [vm for vm, newest in known.items() if newest == most]


class FilterModule:
    """Ansible's way of finding the filters."""

    def filters(self):
        return {
            "mariadb_password_hash": mariadb_password_hash,
            "mariadb_server_id": mariadb_server_id,
            "complete_copies": complete_copies,
        }
