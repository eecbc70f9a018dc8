#!/usr/bin/python
"""Have this VM's broker, running or not, take a new Erlang cookie without a restart.

Connections between brokers that are there stay; from then on both ends of a new one must have the same cookie. So it is
called for all brokers at the same time, and what it interrupts is a tool that asks another VM's broker meanwhile.
Interrupted itself, it completes what it finds half done.
"""

from __future__ import annotations

import os
import pwd

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.orch_file import replace_file

DOCUMENTATION = r"""
module: orch_erlang_cookie
short_description: Replace the secret by which the brokers of a cluster know each other
options:
  cookie: {description: The cookie., type: str, required: true}
  path: {description: Where the broker and its tools read it., type: path, default: /var/lib/rabbitmq/.erlang.cookie}
  owner: {description: Whose file it is., type: str, default: rabbitmq}
  unit: {description: The broker's systemd unit., type: str, required: true}
"""

# The broker reads it itself: no argument and no environment holds a secret.
TAKE = '{{ok, Cookie}} = file:read_file("{path}"), erlang:set_cookie(node(), binary_to_atom(Cookie, latin1)).'


class No(Exception):
    """The broker has not taken it, and goes on with the former one."""


def content_of(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(path, cookie, owner):
    """Write a file that only its owner can read, whole or not at all."""
    account = pwd.getpwnam(owner)
    replace_file(path, cookie.encode(), account.pw_uid, account.pw_gid, 0o400)


def replaced(run, is_running, path, cookie, owner):
    """Do what is left to be done; say whether there was anything. `run`: runs rabbitmqctl, returns status and text."""
    former = content_of(path)
    if former == cookie:
        return False
    if not is_running():
        # It reads its file when it starts.
        write(path, cookie, owner)
        return True
    if run("ping")[0] != 0:
        # Perhaps it has taken the new one, before an interruption.
        write(path, cookie, owner)
        status, said = run("ping")
        if status != 0:
            write(path, former, owner)
            raise No(f"it runs and does not answer: {said.strip()}")
        return True
    coming = f"{path}.coming"
    write(coming, cookie, owner)
    try:
        status, said = run("eval", TAKE.format(path=coming))
        if status != 0:
            raise No(said.strip() or f"rabbitmqctl ended with {status}")
        write(path, cookie, owner)
    finally:
        os.unlink(coming)
    return True


def main():
    module = AnsibleModule(
        argument_spec={
            "cookie": {"type": "str", "required": True, "no_log": True},
            "path": {"type": "path", "default": "/var/lib/rabbitmq/.erlang.cookie"},
            "owner": {"type": "str", "default": "rabbitmq"},
            "unit": {"type": "str", "required": True},
        },
    )
    params = module.params

    def run(*words):
        status, out, err = module.run_command(["rabbitmqctl", "--quiet", *words])
        return status, err or out

    def is_running():
        return module.run_command(["systemctl", "is-active", "--quiet", params["unit"]])[0] == 0

    try:
        changed = replaced(run, is_running, params["path"], params["cookie"], params["owner"])
    except (No, OSError) as problem:
        module.fail_json(msg=f"the broker has not taken the new Erlang cookie: {problem}")
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
