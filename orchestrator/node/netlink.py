"""Addresses of this VM's interfaces, through rtnetlink(7): below a millisecond where a run of `ip` takes 3 to 30.

In: addresses, prefixes, interface names. Out: what the kernel has and does; `OSError` with the kernel's errno.
Knows nothing of locks and announcements.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_REPLACE, _NLM_F_CREATE = 0x1, 0x4, 0x300, 0x100, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFADDR = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, interface index
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_TIMEOUT_S = 2.0
_BUFFER = 64 * 1024


def interfaces_with(address: str) -> tuple[tuple[str, int], ...]:
    """Return (interface, prefix length) for every interface that has the address."""
    family, packed = _packed(address)
    found = []
    for kind, body in _ask(_RTM_GETADDR, _NLM_F_DUMP, _IFADDR.pack(family, 0, 0, 0, 0)):
        if kind == _RTM_NEWADDR:
            _, prefix, _, _, index = _IFADDR.unpack_from(body)
            attributes = dict(_attributes(body[_IFADDR.size :]))
            if attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS)) == packed:
                found.append((socket.if_indextoname(index), prefix))
    return tuple(found)


def add_address(address: str, prefix: int, interface: str) -> None:
    """Give the interface the address; no error when it has it already."""
    _change(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, address, prefix, interface)


def delete_address(address: str, prefix: int, interface: str) -> None:
    """Take the address from the interface; no error when it has not got it."""
    try:
        _change(_RTM_DELADDR, 0, address, prefix, interface)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise


def _packed(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def _change(kind: int, flags: int, address: str, prefix: int, interface: str) -> None:
    family, packed = _packed(address)
    body = _IFADDR.pack(family, prefix, 0, 0, socket.if_nametoindex(interface))
    for attribute in (_IFA_LOCAL, _IFA_ADDRESS):
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), attribute) + packed
    for _ in _ask(kind, flags | _NLM_F_ACK, body):
        pass


def _ask(kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Send one message and yield (type, body) of the answers; raises OSError with what the kernel says."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.bind((0, 0))
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, flags | _NLM_F_REQUEST, 1, 0) + body)
        while True:
            data = netlink.recv(_BUFFER)
            while data:
                length, answer, _, _, _ = _HEADER.unpack_from(data)
                content, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", content)
                    if code:
                        raise OSError(-code, errno.errorcode.get(-code, "unknown error"))
                    return
                yield answer, content


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
