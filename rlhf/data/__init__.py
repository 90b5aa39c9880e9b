"""From source addresses to tables of tokens: sources -> records -> splits -> tokens."""
