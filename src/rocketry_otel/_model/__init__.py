"""Records, events, runs and the signals made from them: pure code without input or output."""
