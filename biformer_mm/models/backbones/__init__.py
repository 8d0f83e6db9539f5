"""BiFormer, the backbone."""
