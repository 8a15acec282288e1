"""Messages to people about failures, sent to a webhook or by mail."""

import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from typing import Self
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import dagster as dg

WEBHOOK, MAIL = ("http", "https"), {"smtp": 25, "smtps": 465}
"""Schemes of targets; of mail with their ports."""
PATIENCE = 5.0
"""Seconds in which a target answers. A sensor's tick has 60, and may tell several failures."""
FORMS = "https://host/path for a webhook, or smtp[s]://[user:password@]host[:port]?to=address[,address][&from=address]"


class UndeliveredError(RuntimeError):
    """A message did not reach its target; the message names the variable and the reason, and no secret."""


@dataclass(frozen=True)
class Message:
    """Message about one failure."""

    id: str
    """Identity of the failure, by which a receiver knows a message that arrives twice."""
    subject: str
    facts: Mapping[str, str]

    @property
    def text(self) -> str:
        """Subject and facts, line by line."""
        return "\n".join([self.subject, *(f"{name}: {value}" for name, value in self.facts.items())])


@dataclass(frozen=True)
class Target:
    """Place that messages are sent to."""

    url: SplitResult

    @classmethod
    def of(cls, address: str) -> Self:
        """Read MS_ASSETS_ALERTS.

        Raises:
            ValueError: it is no address of a webhook or of a mail server with recipients.
        """
        target = cls(urlsplit(address))
        is_mail = target.url.scheme in MAIL
        if not target.url.hostname or not (target._addresses("to") if is_mail else target.url.scheme in WEBHOOK):
            raise ValueError(f"MS_ASSETS_ALERTS: found {target}, expected {FORMS}")
        return target

    def __str__(self) -> str:
        # Without user, password, path and query: the path of a webhook is its secret.
        return f"{self.url.scheme}://{self.url.hostname}"

    def _addresses(self, name: str) -> list[str]:
        return [address for given in parse_qs(self.url.query).get(name, []) for address in given.split(",")]

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            UndeliveredError: the target did not take it.
        """
        try:
            if self.url.scheme in WEBHOOK:
                self._post(message)
            else:
                self._mail(message)
        except Exception as error:  # of sockets, TLS, HTTP or SMTP
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            said = f"MS_ASSETS_ALERTS: {self} did not take the message about {message.id} ({reason})"
            # No error of the library's is shown with this one, for it may name the address.
            raise UndeliveredError(f"{said}; the next tick tries again") from None

    def _post(self, message: Message) -> None:
        import httpx2

        body = {"id": message.id, "text": message.text, "subject": message.subject, **message.facts}
        answer = httpx2.post(self.url.geturl(), json=body, timeout=PATIENCE)
        if not answer.is_success:
            raise ConnectionError(f"status {answer.status_code}, expected 200 to 299")

    def _mail(self, message: Message) -> None:
        mail, recipients = EmailMessage(), self._addresses("to")
        mail["Subject"], mail["Date"] = message.subject, formatdate()
        mail["To"], mail["From"] = ", ".join(recipients), (self._addresses("from") or recipients)[0]
        mail["Message-ID"] = f"<{message.id}@ms-assets.invalid>"
        mail.set_content(message.text)
        with self._connected() as server:
            self._authenticate(server)
            server.send_message(mail)

    def _connected(self) -> smtplib.SMTP:
        host, port = str(self.url.hostname), self.url.port or MAIL[self.url.scheme]
        if self.url.scheme == "smtps":
            return smtplib.SMTP_SSL(host, port, timeout=PATIENCE, context=ssl.create_default_context())
        return smtplib.SMTP(host, port, timeout=PATIENCE)

    def _authenticate(self, server: smtplib.SMTP) -> None:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
        elif self.url.password and self.url.scheme == "smtp":
            raise ConnectionError("it offers no encryption, so that the password was not sent; expected STARTTLS")
        if self.url.username:
            server.login(unquote(self.url.username), unquote(self.url.password or ""))


class Alerts(dg.ConfigurableResource):
    """Target of messages about failures."""

    target: str
    ui: str = ""
    """Address of Dagster's UI for links; none without it."""

    def send(self, message: Message) -> None:
        """Send a message; raises what `Target.send` raises."""
        Target.of(self.target).send(message)

    def link(self, run_id: str) -> dict[str, str]:
        """Address of a run's page by its name, if there is one."""
        return {"link": f"{self.ui.rstrip('/')}/runs/{run_id}"} if self.ui else {}
