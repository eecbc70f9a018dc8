"""Connections that were opened at the previous holder of an address go on there after a planned move.

In: the address and where it was. Out: for some seconds the kernel passes on what belongs to the previous holder, which
still has the address on its loopback interface and answers the client itself (as in LVS direct routing). Without it
this VM would answer those packets with a reset. Best effort: where nftables is missing the move goes on all the same.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from ipaddress import IPv4Address

from orchestrator.node.duties import Forwarding

# Some 5 ms; the first time the kernel may have to load modules. An address is waiting for it.
_NFT_TIMEOUT_S = 1.0

log = logging.getLogger(__name__)


def table_of(address: IPv4Address) -> str:
    """Return the name of the table that holds the rules for the address and nothing else."""
    return f"orch_handover_{str(address).replace('.', '_')}"


def forwarding_rules(address: IPv4Address, previous: IPv4Address, for_s: float) -> str:
    """Return the rule set, for `nft -f -`: one transaction, which takes the place of an older one.

    A packet that opens no connection (no SYN) and would go to a listening socket (`socket wildcard`) belongs to a
    connection that this VM has not got; its own established, half-open and closing ones have sockets of their own.
    No connection tracking: it would have to be switched on, and would not know what was open before. The set's element
    expires, so the rule ends even when nobody is left to remove it.
    """
    table = table_of(address)
    return f"""\
add table ip {table}
delete table ip {table}
table ip {table} {{
    set moved {{ type ipv4_addr; flags timeout; elements = {{ {address} timeout {max(1, round(for_s * 1000))}ms }} }}
    chain arriving {{
        type filter hook prerouting priority -150; policy accept;
        ip daddr @moved tcp flags & syn == 0 socket wildcard 1 dup to {previous} drop
    }}
}}
"""


def no_rules(address: IPv4Address) -> str:
    """Return what removes the rules, whether they are there or not."""
    table = table_of(address)
    return f"add table ip {table}\ndelete table ip {table}\n"


class Forwarder:
    """The rules for one address in this VM's kernel. Nothing here raises: no move depends on it."""

    def __init__(self, address: str) -> None:
        self._address = IPv4Address(address)
        self._ending: threading.Timer | None = None

    def begin(self, forwarding: Forwarding) -> None:
        """Pass on what belongs to the previous holder, until its time is over."""
        self.end()
        try:
            previous = IPv4Address(forwarding.to)
            _load(forwarding_rules(self._address, previous, forwarding.for_s))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            log.warning(
                "connections to %s that are open at %s are reset, not forwarded: %s",
                self._address, forwarding.to, _what_nft_said(error),
            )  # fmt: skip
        else:
            self.end_after(forwarding.for_s)

    def end_after(self, seconds: float) -> None:
        """Remove the rules then, also those that a guard before us left."""
        self._ending = threading.Timer(seconds, self._remove)
        self._ending.name, self._ending.daemon = "forwarding's end", True
        self._ending.start()

    def end(self) -> None:
        """Remove the rules now, if there are any."""
        ending, self._ending = self._ending, None
        if ending is not None and ending.is_alive():
            ending.cancel()
            ending.join()
            self._remove()

    def _remove(self) -> None:
        try:
            _load(no_rules(self._address))
        except (OSError, subprocess.SubprocessError) as error:
            log.debug("the rules for %s could not be removed: %s", self._address, _what_nft_said(error))


def _load(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, timeout=_NFT_TIMEOUT_S, check=True)


def _what_nft_said(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"nft exited {error.returncode}: {' '.join(error.stderr.split())[:300]}"
    return str(error)
