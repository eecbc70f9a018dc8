"""Ends of process trees: what a cancelled play must not leave behind.

Ansible's task processes leave their parent's session (os.setsid in ansible-core 2.19), so killing a process group
does not reach them; they are found by their parents in /proc.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent (the thread that forked it) ends; Linux only."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def parents() -> dict[int, int]:
    """Return pid -> parent pid of every process that this one can see."""
    table: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as stat:
                # The name in parentheses may hold anything, so read from behind the last one.
                table[int(name)] = int(stat.read().rpartition(b")")[2].split()[1])
    return table


def descendants(root: int) -> set[int]:
    """Return the processes below the root as they are now."""
    table = parents()
    found: set[int] = set()
    frontier = {root}
    while frontier:
        frontier = {pid for pid, parent in table.items() if parent in frontier} - found
        found |= frontier
    return found


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send the signal; a process that is gone already is no error."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_tree(root: int) -> None:
    """Kill the process and everything below it.

    All are stopped first, until no new ones turn up: a process that is killed before its children hands them to
    init, where they could no longer be told from others.
    """
    stopped: set[int] = set()
    fresh = {root}
    while fresh:
        for pid in fresh:
            send_signal(pid, signal.SIGSTOP)
        stopped |= fresh
        fresh = descendants(root) - stopped
    for pid in stopped:
        send_signal(pid, signal.SIGKILL)


def kill_below_mentioning(word: str) -> None:
    """Kill every process below this one, with its own tree, that has the word in its command line."""
    for pid in descendants(os.getpid()):
        with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as command:
            if os.fsencode(word) in command.read():
                kill_tree(pid)
