#!/usr/bin/python
"""Give each grant's token exactly the grant's rights in Consul.

Everything in one module call, against the agent of this VM. The first call of a fleet makes the management token, with
the secret that it is given (`acl.tokens.initial_management` would leave it on every server's disk). A token keeps its
secret for ever: a grant with another one gets a token beside the former, which goes when `prune` is set.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: orch_consul_acl
short_description: Policies and tokens of Consul, all at once
options:
  address: {description: The agent., type: str, default: "http://127.0.0.1:8500"}
  management_token: {description: A UUID; made the management token where there is none., type: str, required: true}
  grants:
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: The policy's name and the token's description C(orch-...)., type: str, required: true}
      secret: {description: The token, a UUID., type: str, required: true}
      rules: {description: The policy, HCL., type: str, required: true}
  prune: {description: Remove tokens and policies called C(orch-...) of no grant., type: bool, default: false}
  only_if_running: {description: Do nothing where no agent with ACLs runs., type: bool, default: false}
  wait_s: {description: How long Consul may take to have a leader., type: float, default: 60.0}
"""

RETURN = r"""
did: {description: What was changed., type: list, returned: always}
is_running: {description: There is an agent with ACLs., type: bool, returned: always}
is_done: {description: Nothing is left to be done with C(prune)., type: bool, returned: always}
"""

OURS = "orch-"
CALL_TIMEOUT_S = 5.0
TRY_EVERY_S = 0.25


class NotYet(Exception):
    """Consul does not answer, or has no leader."""


class NotRunning(NotYet):
    """No agent listens, or one without ACLs, as before the first deployment."""


class No(Exception):
    """Consul refused."""


class Consul:
    def __init__(self, address, token):
        self.address, self.token = address, token

    def ask(self, verb, path, body=None):
        request = urllib.request.Request(
            f"{self.address}/v1/{path}",
            method=verb,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Consul-Token": self.token},
        )
        try:
            with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace").strip()
            kind = NotYet if error.code >= 500 else NotRunning if "ACL support disabled" in said else No
            raise kind(said or str(error)) from None
        except (OSError, ValueError) as error:
            if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                raise NotRunning("no agent listens") from None
            raise NotYet(str(error)) from None

    def is_ours(self):
        """Say whether the management token is in force."""
        try:
            self.ask("GET", "acl/token/self")
        except No as no:
            # A fleet that was never bootstrapped; or whose management token is another one.
            if "not found" not in str(no):
                raise
            return False
        return True

    def bootstrap(self):
        """Make the management token where there is none yet; say whether it was made."""
        if self.is_ours():
            return False
        try:
            self.ask("PUT", "acl/bootstrap", {"BootstrapSecret": self.token})
        except No as no:
            # Another call may have been faster, or the answer to an earlier one was lost.
            if self.is_ours():
                return False
            raise No(
                f"{no}. The management token among the secrets of this control node is not the one that Consul has:"
                " docs/operations.md, Who may do what in Consul, says how to make another"
            ) from None
        return True


def waited(consul, wait_s, only_if_running=False):
    """Wait until there is a leader; say whether the management token was made."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return consul.bootstrap()
        except NotYet as problem:
            if time.monotonic() > deadline or (only_if_running and isinstance(problem, NotRunning)):
                raise
            time.sleep(TRY_EVERY_S)


def accessor_of(grant):
    """Return the public name of a token: another one for another secret, which it does not tell."""
    return str(uuid.uuid5(uuid.UUID(grant["secret"]), grant["name"]))


def changes(consul, grants, prune):
    """Return what is to be done, in an order in which no token ever has too much or too little: (words, call)."""
    policies = {each["Name"]: each for each in consul.ask("GET", "acl/policies") if each["Name"].startswith(OURS)}
    tokens = {each["AccessorID"]: each for each in consul.ask("GET", "acl/tokens")}
    found = []
    for grant in grants:
        present = policies.get(grant["name"])
        wanted = {"Name": grant["name"], "Rules": grant["rules"]}
        if present is None:
            found.append((f"policy {grant['name']}", ("PUT", "acl/policy", wanted)))
        elif consul.ask("GET", f"acl/policy/{present['ID']}")["Rules"] != grant["rules"]:
            found.append((f"policy {grant['name']} changed", ("PUT", f"acl/policy/{present['ID']}", wanted)))
    for grant in grants:
        accessor = accessor_of(grant)
        linked = [each["Name"] for each in (tokens.get(accessor) or {}).get("Policies") or []]
        wanted = {"AccessorID": accessor, "Description": grant["name"], "Policies": [{"Name": grant["name"]}]}
        if accessor not in tokens:
            found.append((f"token {grant['name']}", ("PUT", "acl/token", {**wanted, "SecretID": grant["secret"]})))
        elif linked != [grant["name"]]:
            found.append((f"token {grant['name']} changed", ("PUT", f"acl/token/{accessor}", wanted)))
    if prune:
        keep = {accessor_of(grant) for grant in grants}
        for accessor, token in tokens.items():
            if token["Description"].startswith(OURS) and accessor not in keep:
                found.append((f"token {token['Description']} removed", ("DELETE", f"acl/token/{accessor}")))
        for name in policies.keys() - {grant["name"] for grant in grants}:
            found.append((f"policy {name} removed", ("DELETE", f"acl/policy/{policies[name]['ID']}")))
    return found


def main():
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "default": "http://127.0.0.1:8500"},
            "management_token": {"type": "str", "required": True, "no_log": True},
            "grants": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "secret": {"type": "str", "required": True, "no_log": True},
                    "rules": {"type": "str", "required": True},
                },
            },
            "prune": {"type": "bool", "default": False},
            "only_if_running": {"type": "bool", "default": False},
            "wait_s": {"type": "float", "default": 60.0},
        },
    )
    params, did = module.params, []
    consul = Consul(params["address"], params["management_token"])
    try:
        if waited(consul, params["wait_s"], params["only_if_running"]):
            did.append("management token")
        for words, call in changes(consul, params["grants"], params["prune"]):
            consul.ask(*call)
            did.append(words)
        is_done = not changes(consul, params["grants"], prune=True)
    except NotRunning as problem:
        if params["only_if_running"]:
            module.exit_json(changed=False, did=[], is_running=False, is_done=False)
        module.fail_json(msg=f"cannot set Consul's ACLs: {problem}", did=did)
    except (NotYet, No) as problem:
        module.fail_json(msg=f"cannot set Consul's ACLs: {problem}", did=did)
    module.exit_json(changed=bool(did), did=did, is_running=True, is_done=is_done)


if __name__ == "__main__":
    main()
