"""Models: causal language models, the scalar head on top of one, and the quantities read off them."""
