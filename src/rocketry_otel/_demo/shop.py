"""The demo's web server: it has the prices that a task asks for, and a span for each request."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from collections.abc import Iterator

# The last one has no price.
PRICES = {"apples": 1.2, "pears": 2.5, "plums": None}

_SECONDS_TO_ANSWER = 0.15


class _Handler(BaseHTTPRequestHandler):
    """Answers each GET with the prices."""

    def do_GET(self) -> None:
        """Answer, in a span of the trace that the request belongs to."""
        tracer = trace.get_tracer(__name__)
        attributes = {"http.request.method": "GET", "url.path": self.path, "url.scheme": "http"}
        with tracer.start_as_current_span(
            f"GET {self.path}",
            # By the header `traceparent`.
            propagate.extract(dict(self.headers.items())),
            SpanKind.SERVER,
            {**attributes, "http.response.status_code": 200},
        ):
            time.sleep(_SECONDS_TO_ANSWER)
            body = json.dumps(PRICES).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            # The end of the connection shows nothing: a child that is forked now has a copy of it.
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the terminal free."""


@contextmanager
def open_shop() -> Iterator[str]:
    """Serve on a free port of the loopback interface; yield the address, ``host:port``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="shop")
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
