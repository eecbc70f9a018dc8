"""A small ansible folder whose only VM is this machine, and what tests ask of plays."""

from __future__ import annotations

import os
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path

from orchestrator.execute.environment import Places
from orchestrator.execute.releases import digest_of

# Each play appends its line to `log`; only one play at a time can have `lock`, and has it until its shell ends.
PLAYBOOKS = {
    "quick.yml": """
        - hosts: "{{ target }}"
          tasks:
            - name: note it
              ansible.builtin.shell: echo "{{ service }} {{ epoch }} {{ failed_instance }}" >> {{ log }}
            - name: the second task
              ansible.builtin.command: "true"
    """,
    "failing.yml": """
        - hosts: "{{ target }}"
          tasks:
            - name: fail
              ansible.builtin.fail: {msg: this is why}
    """,
    "slow.yml": """
        - hosts: "{{ target }}"
          tasks:
            - name: hold the lock
              ansible.builtin.shell: |
                exec 9>{{ lock }}; flock -n 9 || { echo "two at once" >> {{ log }}; exit 9; }
                echo begin >> {{ log }}
                sleep "$(cat {{ hold }})" 9>&-
                echo end >> {{ log }}
              args: {executable: /bin/bash}
    """,
}


class Playground:
    """An ansible folder, a state folder, and the log that plays write."""

    def __init__(self, directory: Path, hold_s: float = 60.0) -> None:
        self.places = Places(directory / "ansible", directory / "state", directory / "ssh" / "id")
        self.log = directory / "log"
        self.lock = directory / "lock"
        self._hold = directory / "hold"
        self.trace = directory / "trace"
        folder = self.places.ansible_dir
        (folder / "playbooks").mkdir(parents=True)
        (folder / "ansible.cfg").write_text("[defaults]\ninventory = hosts\n")
        (folder / "hosts").write_text("messaging-server ansible_connection=local\n")
        # As in the fleet: what plays need to know stands in group_vars beside the inventory.
        (folder / "group_vars" / "all").mkdir(parents=True)
        facts = f"log: {self.log}\nlock: {self.lock}\nhold: {self._hold}\n"
        (folder / "group_vars" / "all" / "facts.yml").write_text(facts)
        for name, text in PLAYBOOKS.items():
            (folder / "playbooks" / name).write_text(textwrap.dedent(text))
        self.places.make()
        self.hold(hold_s)

    def release(self, name: str) -> str:
        """Have the playbooks be in a release of this name, which is current from now on, beside those that were; return
        its digest. What was there before is moved or copied."""
        directory = self.log.parent
        former = self.places.ansible_dir.resolve()
        folder = directory / "releases" / name / "ansible"
        if former.parent.parent.name == "releases":
            shutil.copytree(former, folder)
        else:
            folder.parent.mkdir(parents=True)
            former.rename(folder)
        quick = folder / "playbooks" / "quick.yml"
        quick.write_text(textwrap.dedent(PLAYBOOKS["quick.yml"]).replace("{{ failed_instance }}", f"of {name}"))
        link = directory / "plays"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.parent)
        self.places = replace(self.places, ansible_dir=link / "ansible")
        return digest_of(folder.parent)

    def hold(self, seconds: float) -> None:
        """Have each slow play that begins from now on hold the lock for so long."""
        self._hold.write_text(f"{seconds}\n")

    @property
    def lines(self) -> list[str]:
        """What plays have written."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def starts(self) -> list[str]:
        """How plays were started: `warm` or `plain` each."""
        return self.trace.read_text().split() if self.trace.exists() else []


def processes_with(word: str) -> list[int]:
    """Return the processes that have the word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if word.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
