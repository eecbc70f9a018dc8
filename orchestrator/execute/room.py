"""Whether there is room on this VM's disk for what a play writes. Reads only."""

from __future__ import annotations

import os
from pathlib import Path

ROOM_FOR_A_PLAY = 512 * 1024
"""Bytes. What a play leaves is some 25 kB (measured), what Ansible unpacks while it runs some 100 kB."""


def no_room_in(folder: Path, needed: int = ROOM_FOR_A_PLAY) -> str:
    """Say why no play can be run with its files in the folder; empty where it can.

    `needed`: bytes.
    """
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return f"{folder} cannot be used: {error.strerror}"
    if disk.f_flag & os.ST_RDONLY:
        return f"the file system of {folder} is read-only"
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        return f"the disk of {folder} is full ({free // 1024} kB are free, a play may need {needed // 1024})"
    # Some file systems count no inodes.
    if disk.f_files and not disk.f_favail:
        return f"the file system of {folder} has no inode left"
    return ""
