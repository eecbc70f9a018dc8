"""RabbitMQ's password hash, so that no definitions file holds a password."""

from __future__ import annotations

import base64
import hashlib


def rabbitmq_password_hash(password: str) -> str:
    """Return what RabbitMQ stores (rabbit_password_hashing_sha256): base64 of a 4-byte salt and its digest.

    The salt is derived from the password, so that deploying twice changes nothing; the passwords are long and
    random, generated at the first deployment.
    """
    salt = hashlib.sha256(b"orch" + password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


class FilterModule:
    """Ansible's way of finding the filter."""

    def filters(self):
        return {"rabbitmq_password_hash": rabbitmq_password_hash}
