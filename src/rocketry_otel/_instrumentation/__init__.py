"""The seam to Rocketry, where a record enters."""
