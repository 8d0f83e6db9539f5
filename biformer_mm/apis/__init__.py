"""Build models from configs and predict with them."""
