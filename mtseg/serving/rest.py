"""Requests to TensorFlow Serving over REST: JSON over HTTP."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.request
from typing import Any

from mtseg.errors import InputError
from mtseg.serving.address import Address, ServerOptions
from mtseg.serving.connection import (
    Answer,
    Connection,
    Question,
    ServerError,
    TemporaryError,
    read_certificates,
    to_array,
)


class RestConnection(Connection):
    """Over HTTP: TensorFlow Serving's REST interface, in columns."""

    def __init__(self, address: Address, options: ServerOptions) -> None:
        super().__init__(address, options)
        self._context = None
        if address.is_encrypted:
            self._context = ssl.create_default_context()
            if options.ca_path is not None:
                text = read_certificates(options).decode("ascii", "replace")
                try:
                    self._context.load_verify_locations(cadata=text)
                except (ssl.SSLError, ValueError) as error:
                    raise InputError(
                        f"{options.ca_path}: holds no certificates. Give a PEM file."
                    ) from error

    def _ask(self, question: Question, seconds: float) -> Answer:
        where = f"/v1/models/{self.address.model}"
        where += "" if question.version is None else f"/versions/{question.version}"
        columns = {name: array.tolist() for name, array in question.inputs.items()}
        body = json.dumps({"signature_name": question.signature, "inputs": columns}).encode()
        if len(body) > self.options.message_bytes:
            raise self._too_large(f"{len(body) / 1e6:.0f} MB of JSON")
        answer = self._read(f"{where}:predict", body, seconds)
        columns = answer.get("outputs")
        if len(question.outputs) == 1 and not isinstance(columns, dict):
            columns = {
                question.outputs[0]: columns
            }  # of a signature with one output the name is left out
        if not isinstance(columns, dict):
            raise ServerError(f"{self.address}: its answer is not that of TensorFlow Serving.")
        try:
            arrays = {name: to_array(columns[name]) for name in question.outputs if name in columns}
        except ValueError as error:
            raise ServerError(f"{self.address}: its answer holds no arrays ({error}).") from error
        version = question.version
        return Answer(arrays, self._newest_version(seconds) if version is None else version)

    def close(self) -> None:
        """Does nothing: every request is a connection of its own."""

    def _newest_version(self, seconds: float) -> int | None:
        status = self._read(f"/v1/models/{self.address.model}", None, seconds)
        try:
            of_all = status["model_version_status"]
            return max(int(v["version"]) for v in of_all if v["state"] == "AVAILABLE")
        except (KeyError, TypeError, ValueError):
            return None

    def _read(self, where: str, body: bytes | None, seconds: float) -> dict[str, Any]:
        headers = {"content-type": "application/json", **self._token}
        url = f"{self.address.scheme}://{self.address.netloc}{where}"
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=seconds, context=self._context) as reply:
                text = reply.read(self.options.message_bytes + 1)
        except urllib.error.HTTPError as error:
            raise self._meaning(error) from error
        except TimeoutError as error:
            raise self._not_in_time(seconds) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise self._not_in_time(seconds) from error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ServerError(
                    f"{self.address}: its certificate is not trusted ({reason.verify_message}). "
                    "Give --ca-certificate."
                ) from error
            raise TemporaryError(str(reason) or type(reason).__name__) from error
        if len(text) > self.options.message_bytes:
            raise ServerError(
                f"{self.address}: its answer is larger than {self.options.message_bytes / 1e6:g} "
                "MB. Give a larger --message-mb."
            )
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ServerError(f"{self.address}: its answer is no JSON.") from error
        if not isinstance(answer, dict):
            raise ServerError(f"{self.address}: its answer is not that of TensorFlow Serving.")
        return answer

    def _meaning(self, error: urllib.error.HTTPError) -> Exception:
        text = error.read(10_000).decode("utf-8", "replace")
        try:
            text = str(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            text = text or error.reason
        if error.code in (429, 503):
            return TemporaryError(f"HTTP {error.code}: {' '.join(text.split())[:200]}")
        if error.code in (401, 403):
            return self._not_allowed()
        if error.code == 413:
            return self._too_large(text)
        return self._refused(f"HTTP {error.code}: {text}")
