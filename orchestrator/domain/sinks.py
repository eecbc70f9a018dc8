"""Sinks: whom the leader tells of what it journals, as the policy names them.

In: one entry of the policy's `notifications`. Out: a frozen `SinkPolicy`, or sentences that say what would be accepted.
Holds no secret, only the paths of the files that do: the policy lies in KV, where every VM can read it.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from orchestrator.domain.history import ENTRY_KINDS, TOLD_BY_DEFAULT

Kind = Literal["webhook", "email", "command"]

_PATH = r"^/[^\x00-\x1f]*$"
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+$")]
_OF_KIND: dict[str, tuple[str, ...]] = {
    "webhook": ("url", "url_file", "token_file"),
    "email": ("host", "port", "security", "sender", "recipients", "user", "password_file"),
    "command": ("command",),
}
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


def fault_in_url(url: str, *, carries_secret: bool) -> str | None:
    """Say why the URL cannot be a webhook's, without repeating it (it may be a secret itself); None where it can."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is no URL that begins with https:// (or http://) and a host"
    if any(not "!" <= letter <= "~" for letter in url):
        return "holds blanks or letters that a URL cannot hold as they are"
    if parts.username is not None:
        return "holds a user: put what the receiver asks for into token_file"
    if carries_secret and parts.scheme == "http" and not _is_loopback(parts):
        return "would carry a secret over plain http: use https"
    return None


def _is_loopback(parts: SplitResult) -> bool:
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"


class SinkPolicy(BaseModel):
    """Whom the leader tells of what it journals: a webhook, people by e-mail, or a command on the leader's VM."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="its own, for `orch notify test NAME` and for the record of what it has been told",
    )
    kind: Kind = Field(description="how it is told")
    entries: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="the kinds of entry of the journal that it is told of; by default those that the table below marks",
    )
    template: str = Field(
        default="entry",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="which templates of templates/notify write it: NAME.json.j2 for a webhook, NAME.subject.j2 and "
        "NAME.txt.j2 (and NAME.html.j2, if there is one) for e-mail, NAME.txt.j2 for a command",
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="when a delivery that still runs has failed")
    give_up_after_s: float = Field(
        default=3600.0,
        gt=0,
        le=7 * 86400,
        description="how old an entry may grow while its delivery fails, until it is given up and that is journalled",
    )
    url: str | None = Field(default=None, description="webhook: where each entry is posted, unless url_file says it")
    url_file: str | None = Field(
        default=None, pattern=_PATH, description="webhook: file with the URL, where whoever knows it may post"
    )
    token_file: str | None = Field(
        default=None, pattern=_PATH, description="webhook: file with a token, sent as `Authorization: Bearer TOKEN`"
    )
    ca_file: str | None = Field(
        default=None,
        pattern=_PATH,
        description="webhook, email: the certificates that the server's is verified against, instead of the system's",
    )
    host: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.:-]+$", description="email: the mail server")
    port: int | None = Field(
        default=None, ge=1, le=65535, description="email: its port; by default 587, with tls 465, with none 25"
    )
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="email: both encrypt and verify the server's certificate; none is for a relay on the VM itself",
    )
    sender: Address | None = Field(default=None, description="email: whom it is from")
    recipients: tuple[Address, ...] = Field(default=(), description="email: whom it is to")
    user: str | None = Field(default=None, min_length=1, description="email: the account at the server, if it asks")
    password_file: str | None = Field(default=None, pattern=_PATH, description="email: file with its password")
    command: tuple[str, ...] = Field(
        default=(),
        description="command: a program's whole path and its words, run without a shell; the text comes on its stdin, "
        "the entry's fields as ORCH_* in its environment",
    )

    def is_told_of(self, kind: str) -> bool:
        """Say whether it is told of entries of the kind."""
        return kind in (TOLD_BY_DEFAULT if self.entries is None else self.entries)

    @property
    def smtp_port(self) -> int:
        """The mail server's port."""
        return self.port or _PORTS[self.security]

    @field_validator("entries")
    @classmethod
    def _kinds_are_known(cls, entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
        strangers = [kind for kind in entries or () if kind not in ENTRY_KINDS]
        if strangers:
            raise ValueError(
                f"the journal has no entries of kind {', '.join(strangers)}; its kinds are {', '.join(ENTRY_KINDS)}"
            )
        return entries

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> SinkPolicy:
        for kind, names in _OF_KIND.items():
            idle = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
            if kind != self.kind and idle:
                raise ValueError(f"a sink of kind {self.kind} has no use for {', '.join(idle)}; kind {kind} has")
        check = {"webhook": self._check_webhook, "email": self._check_email, "command": self._check_command}
        check[self.kind]()
        return self

    def _check_webhook(self) -> None:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("a sink of kind webhook needs a url, or a url_file that holds it, and not both")
        fault = fault_in_url(self.url, carries_secret=self.token_file is not None) if self.url is not None else None
        if fault is not None:
            raise ValueError(f"its url {fault}")

    def _check_email(self) -> None:
        missing = [name for name in ("host", "sender", "recipients") if not getattr(self, name)]
        if missing:
            raise ValueError(f"a sink of kind email needs {', '.join(missing)}")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("a mail server asks for user and password_file together, or for neither")
        if self.security == "none" and self.user is not None:
            raise ValueError("with security none the password would go over the network as it is: use starttls or tls")
        if self.security == "none" and self.ca_file is not None:
            raise ValueError("with security none there is no certificate to verify, so ca_file has no use")

    def _check_command(self) -> None:
        if not (self.command and self.command[0].startswith("/")) or any("\0" in word for word in self.command):
            raise ValueError(
                "a sink of kind command needs a command: a list of words, the first of them the whole path of a program"
            )
        if self.ca_file is not None:
            raise ValueError("a sink of kind command has no use for ca_file; kinds webhook and email have")
