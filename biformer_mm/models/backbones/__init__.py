"""The backbone BiFormer, and its architectures."""
