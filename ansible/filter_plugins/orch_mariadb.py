"""MariaDB's password hash, so that no statement, and so no binlog, holds a password."""

from __future__ import annotations

import hashlib


def mariadb_password_hash(password: str) -> str:
    """Return what mysql_native_password stores: an asterisk and SHA-1 of SHA-1, in capital hexadecimal digits."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()


class FilterModule:
    """Ansible's way of finding the filter."""

    def filters(self):
        return {"mariadb_password_hash": mariadb_password_hash}
