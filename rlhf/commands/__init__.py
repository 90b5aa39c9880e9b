"""What a user starts by hand: the `rlhf` command and what is behind it, and the worker that runs one stage."""
