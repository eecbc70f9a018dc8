"""What MariaDB's settings and statements need: hashes, so that no binlog holds a password, and the servers' numbers."""

from __future__ import annotations

import hashlib


def mariadb_password_hash(password: str) -> str:
    """Return what mysql_native_password stores: an asterisk and SHA-1 of SHA-1, in capital hexadecimal digits."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()


def mariadb_server_id(vm: str) -> int:
    """Return a number from 1 to 2**28 for the VM's name: hardly ever will two of a fleet have the same one."""
    return 1 + int(hashlib.sha256(vm.encode()).hexdigest()[:7], 16)


class FilterModule:
    """Ansible's way of finding the filter."""

    def filters(self):
        return {"mariadb_password_hash": mariadb_password_hash, "mariadb_server_id": mariadb_server_id}
