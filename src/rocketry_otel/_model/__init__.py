"""Records, events, runs and the signals made of them: pure code that does no input or output."""
