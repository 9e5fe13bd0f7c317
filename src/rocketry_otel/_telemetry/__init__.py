"""From signals to the API of OpenTelemetry."""
