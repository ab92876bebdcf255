"""The client of any registry: pull, push and copy, every byte verified while it streams."""
