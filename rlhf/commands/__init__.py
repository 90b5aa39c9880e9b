"""What a user starts by hand: the `rlhf` command, and the worker that runs one stage."""
