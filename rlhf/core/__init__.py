"""What can change a number and belongs to no room: seeds, tallies of metrics, step logs, tokenizers."""
