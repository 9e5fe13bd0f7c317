"""A vendor's endpoint over gRPC, with a header and compression: variables, and no code.

    VENDOR_API_KEY=... sh -c 'set -a; . ./vendor.env; exec python app.py'

To try the connection without the application: rocketry-otel check.
"""

from __future__ import annotations

from rocketry import Rocketry

from rocketry_otel import instrument

app = Rocketry(execution="thread")
instrument(app)


@app.task("every 10 minutes")
def send_invoices() -> None:
    """Fail, so that there is something to see."""
    raise ConnectionError("421 too many connections, try again later")


if __name__ == "__main__":
    app.run()
