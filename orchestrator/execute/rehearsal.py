"""A play that runs nothing, by which the warm server gets ready for those that do.

In: the places. Out: Ansible's cache of packed modules in the warm server, without which the first task of a failover
takes 0.25 s longer. It has one task per module that failovers use, and its interpreter is /bin/true. Run by
ansible-runner as any play is, so that it also warms what plays need of ansible-runner in this process; but on behalf
of no command: it has no record, no result and no artefacts. Its folder is removed before it and after it.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from pathlib import Path

from ansible_runner import Runner

from orchestrator.execute.environment import Places
from orchestrator.execute.play import runner_config

log = logging.getLogger(__name__)

REHEARSED_MODULES = ("ansible.builtin.command", "ansible.builtin.systemd_service")


class Rehearsal:
    """Rehearses in threads of its own, one at a time. Trouble costs the first play a moment and is only reported."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._stop = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Rehearse once; does not wait for it."""
        self._thread = threading.Thread(target=self._run, name="rehearsal", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait until the rehearsal is over (for tests and measurements)."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def stop(self) -> None:
        """Have it end soon."""
        self._stop.set()

    def _run(self) -> None:
        folder = self._places.rehearsal
        with self._one_at_a_time:
            # A worker that was killed in the middle of it has left it there.
            shutil.rmtree(folder, ignore_errors=True)
            try:
                self._play(folder)
            except Exception as error:
                log.warning("The rehearsal could not be run (%s); the first play takes a little longer.", error)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _play(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True)
        playbook = folder / "playbook.json"
        playbook.write_text(json.dumps(rehearsal_play(self._places.ansible_dir)))
        config = runner_config(self._places, folder, "rehearsal", {}, playbook, "-i", "localhost,")
        Runner(config, event_handler=lambda event: False, cancel_callback=self._stop.is_set).run()


def rehearsal_play(ansible_dir: Path) -> list[dict[str, object]]:
    """Return a play that has every module of ours packed, and none of them run."""
    ours = sorted(path.stem for path in (ansible_dir / "library").glob("*.py"))
    return [
        {
            "name": "Rehearsal",
            "hosts": "all",
            "gather_facts": False,
            "connection": "local",
            "vars": {"ansible_python_interpreter": "/bin/true"},
            "tasks": [{"name": name, name: {}, "ignore_errors": True} for name in (*ours, *REHEARSED_MODULES)],
        }
    ]
