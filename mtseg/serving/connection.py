"""Requests to TensorFlow Serving: retries, errors, and what gRPC and REST have in common.

Temporary errors are tried again a few times, each time after a longer wait. Every other error
becomes one clear line. `mtseg.serving.grpc` and `mtseg.serving.rest` send the requests.
"""

from __future__ import annotations

import abc
import random
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mtseg.errors import InputError
from mtseg.serving.address import Address, ServerOptions

FIRST_WAIT_SECONDS = 0.5
"""Before the first further attempt; each next one waits twice as long."""


_CONNECT_SECONDS = 20.0
"""How long the first answer of a server may take, which computes nothing."""


class ServerError(InputError):
    """A server that does not answer as it should; no other scan would fare better."""


class ModelGoneError(ServerError):
    """The version that was asked for is no longer served."""


class Answer(NamedTuple):
    """What a server sent.

    Attributes:
        outputs: arrays by name.
        version: of the model that computed them; None where the server does not say.
    """

    outputs: dict[str, np.ndarray]
    version: int | None


class Question(NamedTuple):
    """What `Connection.predict` is asked, with the version that it comes down to."""

    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    version: int | None


class TemporaryError(Exception):
    """What may be otherwise a moment later."""


class Connection(abc.ABC):
    """A server, asked for one model.

    Args:
        address: where.
        options: how.
    """

    def __init__(self, address: Address, options: ServerOptions) -> None:
        if options.token and not (address.is_encrypted or address.is_loopback):
            raise InputError(
                f"{address}: a token would travel unencrypted. Use grpcs:// or https://, or leave "
                "out the token."
            )
        self.address, self.options = address, options
        self._token = {"authorization": f"Bearer {options.token}"} if options.token else {}

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: tuple[str, ...],
        version: int | None = None,
        is_first: bool = False,
    ) -> Answer:
        """Asks the server.

        Args:
            signature: its name.
            inputs: arrays by name.
            outputs: names of those that are wanted.
            version: of the model; None is the address's, or the newest.
            is_first: whether this is only to see who is there: nothing is computed.

        Raises:
            ModelGoneError: if that version is not served.
            ServerError: if there is no answer, or none that can be used.
        """
        wanted = self.address.version if version is None else version
        question = Question(signature, inputs, outputs, wanted)
        seconds = min(self.options.deadline_seconds, _CONNECT_SECONDS if is_first else float("inf"))
        for attempt in range(self.options.retries + 1):
            if attempt:
                time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
            try:
                answer = self._ask(question, seconds)
            except TemporaryError as error:
                reason = str(error)
                continue
            if missing := [name for name in outputs if name not in answer.outputs]:
                raise ServerError(
                    f"{self.address}: its answer lacks {', '.join(missing)}. {EXPORTED_BY_MTSEG}"
                )
            return answer
        raise ServerError(
            f"{self.address}: no answer in {self.options.retries + 1} attempts ({reason}). Is the "
            "server running, and is this its address?"
        )

    @abc.abstractmethod
    def _ask(self, question: Question, seconds: float) -> Answer:
        """One attempt; raises `TemporaryError` where another may be worth it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection; the next request makes another."""

    def _not_in_time(self, seconds: float) -> ServerError:
        return ServerError(
            f"{self.address}: no answer within {seconds:g} s. Give a longer --deadline-s, or a "
            "smaller --message-mb, which makes requests smaller."
        )

    def _refused(self, reason: str) -> ServerError:
        text = " ".join(reason.split())[:300]
        if "not found" in text.lower() and "signature" not in text.lower():
            return ModelGoneError(f"{self.address}: the server has no such model ({text}).")
        if "signature" in text.lower():
            return ServerError(f"{self.address}: {text}. {EXPORTED_BY_MTSEG}")
        return ServerError(f"{self.address}: the server refused the request ({text}).")

    def _not_allowed(self) -> ServerError:
        return ServerError(f"{self.address}: access denied. Give a valid --token-file.")

    def _too_large(self, reason: str) -> ServerError:
        text = " ".join(reason.split())[:200]
        return ServerError(
            f"{self.address}: a message is larger than the server takes ({text}). Give a smaller "
            "--message-mb."
        )


EXPORTED_BY_MTSEG = "Serve a model that mtseg-export of this version wrote."


def to_array(column: Any) -> np.ndarray:
    array = np.asarray(column)
    if array.dtype == object:
        raise ValueError("rows of different lengths")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def read_certificates(options: ServerOptions) -> bytes:
    assert options.ca_path is not None
    try:
        return options.ca_path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{options.ca_path}: cannot be read ({error.strerror}). Give a PEM file."
        ) from error
