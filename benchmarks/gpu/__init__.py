"""What ``run_gpu.sh`` runs: a step of the measurement per module."""
