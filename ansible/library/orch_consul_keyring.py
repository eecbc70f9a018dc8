#!/usr/bin/python
"""Have all agents of the fleet encrypt gossip with one key and know no other.

Installs it everywhere, then has it used, then removes the others, each step on all agents. An agent that is away would
keep the former key and find nobody again: then nothing is changed.
"""

from __future__ import annotations

import json
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.orch_consul import NoAnswer, ask

DOCUMENTATION = r"""
module: orch_consul_keyring
short_description: Replace the key of Consul's gossip
options:
  address: {description: The agent., type: str, default: "http://127.0.0.1:8500"}
  management_token: {description: May change the keyring., type: str, required: true}
  key: {description: The key, base64., type: str, required: true}
  agents: {description: How many agents there must be., type: int, required: true}
"""

CALL_TIMEOUT_S = 10.0
SETTLED_WITHIN_S = 20.0


class No(Exception):
    """It cannot be done, and nothing was removed."""


class Keyring:
    def __init__(self, address, token):
        self.address, self.token = address, token

    def ask(self, verb, key=None):
        body = None if key is None else {"Key": key}
        try:
            return ask(self.address, self.token, verb, "operator/keyring", body, timeout_s=CALL_TIMEOUT_S)
        except NoAnswer as problem:
            raise No(str(problem)) from None

    def pools(self):
        """Return the pools of gossip: the fleet, and its servers with those of other fleets (none)."""
        return json.loads(self.ask("GET"))

    def primary_everywhere(self, key):
        return all(pool["PrimaryKeys"].get(key) == pool["NumNodes"] for pool in self.pools())

    def others(self, key):
        return sorted({other for pool in self.pools() for other in pool["Keys"] if other != key})


def replaced(keyring, key, agents):
    """Do what is left to be done; say whether there was anything."""
    if keyring.primary_everywhere(key) and not keyring.others(key):
        return False
    for pool in keyring.pools():
        if not pool["WAN"] and pool["NumNodes"] != agents:
            raise No(
                f"{pool['NumNodes']} of {agents} agents answer: an agent that is away would find nobody again, so the"
                " key is left as it is"
            )
    keyring.ask("POST", key)
    keyring.ask("PUT", key)
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while not keyring.primary_everywhere(key):
        if time.monotonic() > deadline:
            raise No("not every agent uses the new key; all of them know both, so nothing is lost: run it again")
        time.sleep(0.2)
    for other in keyring.others(key):
        keyring.ask("DELETE", other)
    return True


def main():
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "default": "http://127.0.0.1:8500"},
            "management_token": {"type": "str", "required": True, "no_log": True},
            "key": {"type": "str", "required": True, "no_log": True},
            "agents": {"type": "int", "required": True},
        },
    )
    params = module.params
    try:
        changed = replaced(Keyring(params["address"], params["management_token"]), params["key"], params["agents"])
    except No as problem:
        module.fail_json(msg=f"cannot replace the key of Consul's gossip: {problem}")
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
