"""Models and predictions from a config."""
