"""Requests to TensorFlow Serving: what gRPC and REST have in common.

Begin with `Connection.predict`, which sends arrays to a signature and returns the arrays of the
answer. It repeats a request that failed for a temporary reason and turns every other failure into
one line for the user. `mtseg.serving.grpc` and `mtseg.serving.rest` send a single request each.
"""

from __future__ import annotations

import abc
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.serving.address import Address, ServerOptions

FIRST_WAIT_SECONDS = 0.5
"""Wait before the first retry. Each further wait is twice as long, so that an overloaded server can
recover; a random quarter more or less keeps clients from returning all at once."""

_MOST_DOUBLINGS = 7
"""After this many, each wait is as long as the one before: about a minute."""

_DESCRIBE_SECONDS = 20.0
"""Longest wait for an answer that needs no computation."""

EXPORTED_BY_MTSEG = "Serve a model that mtseg-export of this version wrote."
"""What to do if the server has a model of another kind."""


class ServerError(InputError):
    """The server does not answer, or answers with an error; other scans would fail as well."""


class RequestError(ServerError):
    """The server answers, but does not compute this request; it may compute those of other scans.

    The request is too large, not computed in time, or refused.
    """


class ModelGoneError(ServerError):
    """The server does not have the model, or no longer has the version that was asked for."""


class TemporaryError(Exception):
    """The request may succeed a moment later."""


class Response(NamedTuple):
    """What a server answered.

    Attributes:
        outputs: output name -> array.
        version: version of the model that computed them; None if the server does not say.
    """

    outputs: dict[str, npt.NDArray[Any]]
    version: int | None


class Request(NamedTuple):
    """What is sent to a server.

    Attributes:
        signature: name of the signature.
        outputs: names of the outputs to return.
        version: version of the model; None is the newest.
    """

    signature: str
    outputs: Sequence[str]
    version: int | None


class Connection(abc.ABC):
    """A connection to a server, for one of its models.

    Args:
        address: the server and the model.
        options: how requests are sent.

    Raises:
        InputError: if a token would be sent unencrypted to another machine.
    """

    def __init__(self, address: Address, options: ServerOptions) -> None:
        if options.token and not (address.is_encrypted or address.is_loopback):
            raise InputError(
                f"{address}: the token would be sent unencrypted. Use grpcs:// or https://, or "
                "leave out the token."
            )
        self.address, self.options = address, options
        self._headers = {"authorization": f"Bearer {options.token}"} if options.token else {}

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        version: int | None = None,
        *,
        is_description: bool = False,
    ) -> Response:
        """Has the server compute a signature.

        Args:
            signature: name of the signature.
            inputs: input name -> array.
            outputs: names of the outputs to return.
            version: version of the model; None is that of the address, or the newest.
            is_description: whether the answer needs no computation, so that 20 s are long enough
                to wait for it.

        Returns:
            The arrays of all `outputs`, and the version that computed them.

        Raises:
            ModelGoneError: if the server does not have that model or version.
            ServerError: if there is no answer, or not a usable one.
        """
        wanted = self.address.version if version is None else version
        request = Request(signature, outputs, wanted)
        body = self._encode(request, inputs)
        del inputs  # arrays of a tile are large, and a retry sends the same bytes
        seconds = self.options.deadline_seconds
        if is_description:
            seconds = min(seconds, _DESCRIBE_SECONDS)
        reason = ""
        for attempt in range(self.options.retries + 1):
            if attempt:
                doublings = min(attempt - 1, _MOST_DOUBLINGS)
                time.sleep(FIRST_WAIT_SECONDS * 2**doublings * random.uniform(0.75, 1.25))
            try:
                response = self._send(request, body, seconds)
            except TemporaryError as error:
                reason = str(error)
                continue
            if missing := [name for name in outputs if name not in response.outputs]:
                raise ServerError(
                    f"{self.address}: its answer lacks {', '.join(missing)}. {EXPORTED_BY_MTSEG}"
                )
            return response
        num_attempts = self.options.retries + 1
        raise ServerError(
            f"{self.address}: no answer in {num_attempts} attempt{'s' * (num_attempts > 1)} "
            f"({reason}). Is the "
            "server running, and is this its address? If it is busy, give more --retries."
        )

    @abc.abstractmethod
    def _encode(self, request: Request, inputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
        """The message of a request; raises `ServerError` if it is too large to be sent."""

    @abc.abstractmethod
    def _send(self, request: Request, body: bytes, seconds: float) -> Response:
        """Sends a message once and waits so long; raises `TemporaryError` if a retry may help."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection; the next request opens it again."""

    def _too_late(self, seconds: float) -> RequestError:
        return RequestError(
            f"{self.address}: no answer within {seconds:g} s. Give a longer --deadline-s, or a "
            "smaller --message-mb, which makes requests smaller."
        )

    def _not_found(self, reason: str) -> ModelGoneError:
        return ModelGoneError(
            f"{self.address}: the server has no such model ({one_line(reason)}). Give the name and "
            "version of a model that it serves."
        )

    def _refused(self, reason: str) -> ServerError:
        text = one_line(reason)
        # TensorFlow Serving answers a wrong signature and a wrong array with the same code
        # (INVALID_ARGUMENT, HTTP 400), so only the text tells that the model is of another kind.
        if "signature" in text.lower():
            return ServerError(f"{self.address}: {text}. {EXPORTED_BY_MTSEG}")
        return RequestError(f"{self.address}: the server refused the request ({text}).")

    def _not_allowed(self) -> ServerError:
        return ServerError(f"{self.address}: access denied. Give a valid --token-file.")

    def _too_large(self, reason: str) -> RequestError:
        return RequestError(
            f"{self.address}: a message is larger than the server accepts ({one_line(reason)}). "
            "Give a smaller --message-mb."
        )


def one_line(text: str, length: int = 300) -> str:
    """A server's text on one line, at most so many characters, and none that a terminal obeys."""
    line = " ".join(text.split())[:length]
    return "".join(c if c.isprintable() else "?" for c in line)


def read_certificates(path: Path) -> bytes:
    """The contents of a PEM file of certificates.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give a PEM file.") from error
