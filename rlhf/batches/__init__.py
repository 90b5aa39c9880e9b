"""From the rows of prepared tables to tensors."""
