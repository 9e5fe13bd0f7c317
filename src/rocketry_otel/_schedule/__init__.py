"""What Rocketry's conditions mean: their parts, words, verdicts, and what is missing."""
