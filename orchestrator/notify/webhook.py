"""A webhook: one POST of JSON per notice. Follows no redirect, which could carry the token elsewhere, and no proxy."""

from __future__ import annotations

import contextlib
import http.client
from urllib.parse import quote, urlsplit

from orchestrator import __version__
from orchestrator.domain.sinks import SinkPolicy, fault_in_url
from orchestrator.notify.line import called, verifying
from orchestrator.notify.notice import Notice, Templates, Undelivered
from orchestrator.notify.secret import secret_in

# Of these nothing but another notice would change anything: the receiver does not like what this one says.
_DISLIKED = frozenset({400, 413, 415, 422})


def post_notice(sink: SinkPolicy, notice: Notice, templates: Templates) -> str:
    """Post the notice; return what the receiver answered, or raise `Undelivered`.

    A receiver knows a notice that comes again by its `Idempotency-Key`, the entry's id.
    """
    body = templates.json(f"{sink.template}.json.j2", notice).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"orch/{__version__}",
        "Idempotency-Key": quote(notice.entry.id, safe=""),
        "Connection": "close",
    }
    if sink.token_file is not None:
        headers["Authorization"] = f"Bearer {secret_in(sink.token_file)}"
    url = urlsplit(_url_of(sink))
    line = _line_to(url.scheme, str(url.hostname), url.port, sink)
    with contextlib.closing(line), called("the webhook", sink.timeout_s, lambda: line.sock):
        line.request("POST", f"{url.path or '/'}{f'?{url.query}' if url.query else ''}", body, headers)
        answer = line.getresponse()
        status, reason = answer.status, " ".join(answer.reason.split())[:100]
    if not 200 <= status < 300:
        hint = "; redirects are not followed" if 300 <= status < 400 else ""
        raise Undelivered(f"the webhook answered {status} {reason}".rstrip() + hint, is_final=status in _DISLIKED)
    return f"the webhook answered {status} {reason}".rstrip()


def _url_of(sink: SinkPolicy) -> str:
    if sink.url is not None:
        return sink.url
    url = secret_in(str(sink.url_file))
    fault = fault_in_url(url, carries_secret=True)
    if fault is not None:
        raise Undelivered(f"what {sink.url_file} holds {fault}")
    return url


def _line_to(scheme: str, host: str, port: int | None, sink: SinkPolicy) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=sink.timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=sink.timeout_s, context=verifying(sink.ca_file))
