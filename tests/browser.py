"""Drives a real Chromium by its DevTools protocol, over pipes."""

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
import time

import pytest


def require_chromium():
    """Path of the browser; the test is skipped without one."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: install it to have this test run")
    return path


class Browser:
    """One tab; what the page logs, and every address that it asks for, is kept."""

    def __init__(self, profile, *flags, size=(1300, 900)):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [
            require_chromium(), "--headless", "--no-sandbox", "--no-first-run", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}", *flags, "about:blank",
        ]  # fmt: skip
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._numbers = itertools.count(1)
        self._answers = queue.Queue()
        self.logged, self.requested = [], []
        threading.Thread(target=self._listen, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank", _session=None)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True, _session=None)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(*size)

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method, _session="", **parameters):
        """Calls a method of the protocol and returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if _session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._answers.get(timeout=120)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url):
        # The old document still answers for a moment, and it is complete, too.
        self.run("globalThis.isOld = true")
        self.call("Page.navigate", url=url)
        self.wait_for("!globalThis.isOld && document.readyState === 'complete'")

    def run(self, script):
        """The value of a JavaScript expression."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, script, seconds=90):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"not true in time: {script}\n{self.text()}"
            time.sleep(0.1)

    def text(self, selector="body"):
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def drop(self, *paths, at=(150, 200)):
        """Drops files and folders onto the page, as from a file manager."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind, (x, y) in (("dragEnter", (150, 200)), ("dragOver", at), ("drop", at)):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector, *paths):
        """Chooses files in an input element."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path) for path in paths], nodeId=node)

    def press(self, key, code=None, number=0):
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=code or key,
                windowsVirtualKeyCode=number,
            )  # fmt: skip

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def prefer(self, scheme):
        """Makes the browser ask for `dark` or `light` pages."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def screenshot(self, path, whole=True):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _listen(self):
        kept = b""
        while piece := self._piece():
            *messages, kept = (kept + piece).split(b"\0")
            for message in map(json.loads, messages):
                self._note(message)
                self._answers.put(message)

    def _piece(self):
        try:
            return os.read(self._read, 1 << 20)
        except OSError:
            return b""

    def _note(self, message):
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                texts = [str(a.get("value", a.get("description"))) for a in parameters["args"]]
                self.logged.append(f"{parameters['type']}: {' '.join(texts)}")
            case "Runtime.exceptionThrown":
                self.logged.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.logged.append(json.dumps(parameters["entry"]))
            case "Network.requestWillBeSent":
                self.requested.append(parameters["request"]["url"])
