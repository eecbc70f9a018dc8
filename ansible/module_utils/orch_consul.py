"""Ask the Consul agent of this VM for what only the management token may do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request


class NoAnswer(Exception):
    """The agent does not answer, or says no. The message says why."""


def ask(address, token, verb, path, body=None, *, timeout_s):
    """Return the answer's bytes; raises NoAnswer."""
    request = urllib.request.Request(
        f"{address}/v1/{path}",
        method=verb,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-Consul-Token": token},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise NoAnswer(error.read().decode(errors="replace").strip() or str(error)) from None
    except OSError as error:
        raise NoAnswer(str(error)) from None
