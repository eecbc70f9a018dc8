#!/usr/bin/python
"""Restart the Consul agent of this VM without leaving the fleet's servers without a leader.

The one that leads hands over first: else nothing can be confirmed until the others have noticed and elected, and writes
are closed meanwhile. Returns when the server knows again all that had been committed, so that what comes next finds
Consul as it was.
"""

from __future__ import annotations

import json
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.orch_consul import NoAnswer, ask

DOCUMENTATION = r"""
module: orch_consul_restart
short_description: Restart the Consul agent of this VM, which hands the leadership over before
options:
  address: {description: The agent., type: str, default: "http://127.0.0.1:8500"}
  management_token: {description: May hand the leadership over., type: str, required: true}
  restart: {description: Otherwise it only hands over., type: bool, default: true}
"""

CALL_TIMEOUT_S = 5.0
HANDED_OVER_WITHIN_S = 5.0
BACK_WITHIN_S = 60
LOOK_EVERY_S = 0.1


class Agent:
    def __init__(self, address, token):
        self.address, self.token = address, token

    def ask(self, verb, path):
        said = ask(self.address, self.token, verb, path, timeout_s=CALL_TIMEOUT_S)
        try:
            return json.loads(said)
        except ValueError as error:
            raise NoAnswer(f"its answer makes no sense: {error}") from None

    def leads(self):
        return self.ask("GET", "agent/self")["Stats"]["consul"]["leader"] == "true"

    def committed(self):
        """Return up to which entry of the log the leader has told it that all is committed; a start forgets it."""
        return int(self.ask("GET", "agent/self")["Stats"]["raft"]["commit_index"])

    def knows_a_leader(self):
        return bool(self.ask("GET", "status/leader"))

    def hand_over(self):
        self.ask("POST", "operator/raft/transfer-leader")


def holds_within(seconds, condition):
    """Wait for the condition; an agent that does not answer is asked again. Say whether it came to be."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return True
        except NoAnswer:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY_S)


def hand_over(agent):
    """Have another server lead where this one does.

    Returns whether it did so, and why it did not, which may be empty.
    """
    try:
        if not agent.leads():
            return False, ""
        agent.hand_over()
    except NoAnswer as problem:
        return False, f"the agent did not hand the leadership over: {problem}"
    if not holds_within(HANDED_OVER_WITHIN_S, lambda: not agent.leads() and agent.knows_a_leader()):
        return True, f"no other server leads {HANDED_OVER_WITHIN_S:g} s after the leadership was handed over"
    return True, ""


def restarted(agent, restart, wait_s):
    """Restart it; return whether it is back in time."""
    try:
        before = agent.committed()
    except NoAnswer:
        before = 1  # nothing is known: back is who has heard of the leader at all
    restart()
    return holds_within(wait_s, lambda: agent.knows_a_leader() and agent.committed() >= before)


def main():
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "default": "http://127.0.0.1:8500"},
            "management_token": {"type": "str", "required": True, "no_log": True},
            "restart": {"type": "bool", "default": True},
        },
    )
    params = module.params

    def restart():
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        module.run_command(["systemctl", "restart", "consul"], check_rc=True)

    agent = Agent(params["address"], params["management_token"])
    changed, warning = hand_over(agent)
    if warning:
        module.warn(warning)
    if params["restart"] and not restarted(agent, restart, BACK_WITHIN_S):
        module.fail_json(msg=f"Consul on this VM has not heard of a leader {BACK_WITHIN_S} s after its restart")
    module.exit_json(changed=changed or params["restart"])


if __name__ == "__main__":
    main()
