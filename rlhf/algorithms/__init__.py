"""Algorithms of the policy loop: how a policy learns from what is drawn and scored.

`rlhf.registry.ALGORITHMS` lists them; README.md here shows how to add one.
"""
