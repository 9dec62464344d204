"""Headless Chromium, driven by the DevTools protocol through two pipes: no package and no port is needed."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--hide-scrollbars", "--remote-debugging-pipe",
]  # fmt: skip


def program():
    """The path of Chromium, None if it is not installed."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One page. `events` holds what the page reported: requests, messages in the console, exceptions."""

    def __init__(self, profile):
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        # Chromium reads its file descriptor 3 and writes to 4
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        command = ["bash", "-c", script, "bash", program(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.log = open(profile / "chromium.log", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(command, pass_fds=(to_browser, from_browser), stdout=self.log, stderr=self.log)
        os.close(to_browser)
        os.close(from_browser)
        self.rest, self.last, self.session, self.events = b"", 0, None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def message(self, seconds):
        """The next message of the browser."""
        deadline = time.monotonic() + seconds
        while b"\0" not in self.rest:
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self.read_end], [], [], left)[0]:
                raise TimeoutError(f"the browser said nothing in {seconds} s")
            part = os.read(self.read_end, 1 << 20)
            if not part:
                raise ConnectionError("the browser has ended")
            self.rest += part
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, seconds=30, **params):
        self.last += 1
        call = {"id": self.last, "method": method, "params": params}
        call |= {"sessionId": self.session} if self.session else {}
        os.write(self.write_end, json.dumps(call).encode() + b"\0")
        while True:
            message = self.message(seconds)
            if message.get("id") == self.last:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def run(self, script, seconds=30):
        """The value of a JavaScript expression, which may be a promise."""
        answer = self.call(
            "Runtime.evaluate", seconds, expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            about = answer["exceptionDetails"]
            raise RuntimeError(about.get("exception", {}).get("description", about["text"]))
        return answer["result"].get("value")

    def wait(self, condition, seconds=20):
        """Wait until a JavaScript expression is true; returns the seconds."""
        started = time.monotonic()
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() - started > seconds:
                raise TimeoutError(condition)
            time.sleep(0.02)
        return time.monotonic() - started

    def open(self, path):
        self.resize(1280, 900)
        self.scheme(dark=False)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete' && document.body.dataset.ready")

    def frame(self):
        """Wait until two frames have been drawn: what was asked for before is then shown."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 5))))")

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def scheme(self, dark):
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def mouse(self, kind, x, y, buttons=0):
        about = {"button": "left" if buttons or kind == "mouseReleased" else "none", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, buttons=buttons, **about)

    def key(self, key):
        text = {" ": {"text": " ", "code": "Space"}, "Enter": {"text": "\r", "code": "Enter"}}.get(key, {"code": key})
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def centre(self, selector):
        """Scroll to an element; [left, top, width, height] of its box."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        return self.run(
            f"(({{left, top, width, height}}) => [left, top, width, height])({box}.getBoundingClientRect())"
        )

    def close(self):
        with contextlib.suppress(Exception):
            self.session = None
            self.call("Browser.close", 5)
        for end in (self.read_end, self.write_end):
            os.close(end)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
