"""MMEngine's runner and what prepares its config."""
