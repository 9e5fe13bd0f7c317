"""Look at the built documentation in a real browser: on a phone, in the dark, with axe.

In: ``site/``, Chromium, the path of ``axe.min.js``, and the pages; all, if none is named. Out: a
line for each page that is wider than its window and for each fault that axe finds, and status 1.
Each page is loaded at three widths, in the light and in the dark. `make docs-browser` runs it; CI
does not.
"""
# ruff: noqa: INP001  # a program, not a package

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTHS = (360, 768, 1280)
LONGEST = 1800.0  # seconds, for all pages

_HARNESS = """<!doctype html><title>check</title><body><script>
const pages = PAGES, widths = WIDTHS;
const wait = frame => new Promise(done => { frame.onload = done; });
async function look(page, width, theme) {
  localStorage.setItem("theme", theme);
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.src = "/" + page;
  const loaded = wait(frame);
  document.body.append(frame);
  await loaded;
  const inner = frame.contentDocument, root = inner.documentElement, found = [];
  if (root.scrollWidth > root.clientWidth)
    found.push("is " + root.scrollWidth + " px wide");
  const script = inner.createElement("script");
  script.src = "/AXE";
  const ready = new Promise(done => { script.onload = done; });
  inner.head.append(script);
  await ready;
  const result = await frame.contentWindow.axe.run(inner, {resultTypes: ["violations"]});
  for (const fault of result.violations)
    for (const node of fault.nodes)
      found.push(fault.id + ": " + node.target.join(" ") + ": " + node.html.slice(0, 120));
  frame.remove();
  return found.map(text => page + ", " + width + " px, " + theme + ": " + text);
}
(async () => {
  let found = [], looked = 0;
  try {
    for (const page of pages) for (const theme of ["light", "dark"]) for (const width of widths) {
      found = found.concat(await look(page, width, theme));
      looked += 1;
    }
  } catch (error) { found.push("the check itself failed: " + error); }
  await fetch("/RESULT", {method: "POST", body: JSON.stringify({found, looked})});
})();
</script>"""


class _Server(http.server.ThreadingHTTPServer):
    """Serves the site, the harness and axe, and takes the result."""

    def __init__(self, site: Path, axe: Path, pages: list[str]) -> None:
        handler = functools.partial(_Handler, directory=str(site))
        super().__init__(("127.0.0.1", 0), handler)
        harness = _HARNESS.replace("PAGES", json.dumps(pages))
        self.harness = harness.replace("WIDTHS", json.dumps(WIDTHS)).encode()
        self.axe = axe.read_bytes()
        self.result: dict[str, object] = {}
        self.has_result = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: the browser leaves a page before all of it has come."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Answer with a file of the site, or one of ours."""
        own = {
            "/HARNESS": ("text/html", self.server.harness),
            "/AXE": ("text/javascript", self.server.axe),
        }
        if self.path not in own:
            super().do_GET()
            return
        kind, body = own[self.path]
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Take the result."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.result = json.loads(body)
        self.send_response(204)
        self.end_headers()
        self.server.has_result.set()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def browser() -> str | None:
    """Return the path of Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def options(profile: str) -> list[str]:
    """Return the options of a browser without a window, also for root in a container."""
    return [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--disable-extensions", f"--user-data-dir={profile}"),
    ]


def look_at(site: Path, axe: Path, program: str, pages: list[str]) -> tuple[list[str], int]:
    """Return the faults of pages, and how many times a page was looked at."""
    with _Server(site, axe, pages) as server, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/HARNESS"
        process = subprocess.Popen(  # noqa: S603  # the browser of this machine
            [program, *options(profile), "--remote-debugging-port=0", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if not server.has_result.wait(LONGEST):
                return ["The browser gave no result"], 0
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
    found, looked = server.result["found"], server.result["looked"]
    return (found, looked) if isinstance(found, list) and isinstance(looked, int) else ([], 0)


def main(axe: str, *pages: str) -> int:
    """Print the faults; return the exit status."""
    program = browser()
    if program is None:
        sys.stdout.write("No Chromium found: on Debian, apt-get install chromium\n")
        return 1
    site = ROOT / "site"
    every = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html"))
    every.append("search.html?q=trace")
    found, looked = look_at(site, Path(axe), program, list(pages) or every)
    for line in found:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{looked} looks, {len(found)} faults\n")
    return 1 if found or not looked else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
