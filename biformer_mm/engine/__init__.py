"""What the tools do before MMEngine's runner takes over."""
