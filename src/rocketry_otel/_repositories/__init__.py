"""Red Bird repositories, opened by URL and written to."""
