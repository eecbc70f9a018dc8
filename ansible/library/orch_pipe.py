#!/usr/bin/python
"""Run one command on each of two VMs, over SSH, the output of the one being the input of the other.

For what is too much for a variable: a clone of a database. Runs on the VM of whoever runs the play, with that one's own
key and pinned host keys; what passes through is kept nowhere. Both commands end when either does.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: orch_pipe
short_description: Stream from a command on one VM to a command on another
options:
  sender:
    description: The VM whose command writes.
    type: dict
    required: true
    suboptions: &vm
      address: {description: Where SSH finds it., type: str, required: true}
      port: {description: SSH's port., type: int, default: 22}
      user: {description: The account; the present one when empty., type: str, default: ""}
      command: {description: The words of the command., type: list, elements: str, required: true}
  receiver:
    description: The VM whose command reads.
    type: dict
    required: true
    suboptions: *vm
  ssh_args: {description: Further words for both SSH clients, quoted as for a shell., type: str, default: ""}
  key_file: {description: The private key; SSH's own choice when empty., type: path, default: ""}
  timeout_s: {description: When to give up., type: float, default: 86400}
"""

VM_OPTIONS = {
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "default": 22},
    "user": {"type": "str", "default": ""},
    "command": {"type": "list", "elements": "str", "required": True},
}
POLL_S = 0.1
# What the other command may still have to do when one has failed.
GRACE_S = 5.0


def ssh_words(vm, ssh_args, key_file):
    """Return the SSH client's argv. Each word of the command is quoted for the VM's shell."""
    words = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
    words += shlex.split(ssh_args)
    words += ["-i", key_file] if key_file else []
    words += ["-l", vm["user"]] if vm["user"] else []
    return [*words, "-p", str(vm["port"]), "--", vm["address"], shlex.join(vm["command"])]


def text_of(file):
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def wait_for_both(processes, deadline):
    """Return when both have ended; kill what goes on after the other has failed, or when the time is over."""
    failed_at = None
    while any(process.poll() is None for process in processes):
        now = time.monotonic()
        if failed_at is None and any(process.returncode not in (None, 0) for process in processes):
            failed_at = now
        if now > deadline or (failed_at is not None and now > failed_at + GRACE_S):
            for process in processes:
                process.kill()
        time.sleep(POLL_S)


def stream(module, said):
    """Run both to their end; return what went wrong, one sentence per VM."""
    params = module.params
    try:
        sender = subprocess.Popen(
            ssh_words(params["sender"], params["ssh_args"], params["key_file"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said[0],
        )
        receiver = subprocess.Popen(
            ssh_words(params["receiver"], params["ssh_args"], params["key_file"]),
            stdin=sender.stdout,
            stdout=subprocess.DEVNULL,
            stderr=said[1],
        )
    except OSError as error:
        module.fail_json(msg=f"no SSH client could be started: {error}")
    # The receiver's alone: the sender learns when it is gone.
    sender.stdout.close()
    wait_for_both((sender, receiver), time.monotonic() + params["timeout_s"])
    return [
        f"{params[side]['address']}: {text_of(file) or f'exit status {process.returncode}'}"
        for side, process, file in zip(("sender", "receiver"), (sender, receiver), said, strict=True)
        if process.returncode != 0
    ]


def main():
    module = AnsibleModule(
        argument_spec={
            "sender": {"type": "dict", "required": True, "options": VM_OPTIONS},
            "receiver": {"type": "dict", "required": True, "options": VM_OPTIONS},
            "ssh_args": {"type": "str", "default": ""},
            "key_file": {"type": "path", "default": ""},
            "timeout_s": {"type": "float", "default": 86400},
        },
    )
    with tempfile.TemporaryFile() as sender_said, tempfile.TemporaryFile() as receiver_said:
        problems = stream(module, (sender_said, receiver_said))
    if problems:
        module.fail_json(msg="; ".join(problems))
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
