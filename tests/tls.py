"""A fleet's own authority and what servers and clients need of it, made by the code that makes them at deployment."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path

_MADE_BY = Path(__file__).resolve().parents[1] / "ansible" / "lookup_plugins" / "orch_secret.py"
LOOPBACK = tuple(f"127.0.0.{number}" for number in range(1, 10))


@dataclass(frozen=True)
class Tls:
    """Files of one authority and of one server's certificate, which is good for `localhost` and `LOOPBACK`."""

    ca: Path
    certificate: Path
    key: Path


def make_tls(folder: Path) -> Tls:
    """Make a new authority and a certificate of its own in the folder. The server's account must be let in there."""
    made = runpy.run_path(str(_MADE_BY))
    authority = made["make_ca"]()
    own = made["make_certificate"](authority, {"names": ["localhost"], "addresses": list(LOOPBACK)})
    found = Tls(folder / "ca.pem", folder / "vm.pem", folder / "vm-key.pem")
    for path, text in ((found.ca, authority["certificate"]), (found.certificate, own["certificate"])):
        path.write_text(text)
        path.chmod(0o644)
    found.key.touch(mode=0o600)
    found.key.write_text(own["key"])
    return found
