"""The stages that train: their loops, and what stands around every loop."""
