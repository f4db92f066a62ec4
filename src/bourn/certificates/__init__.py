"""Evidence and verdicts."""
