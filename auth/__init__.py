"""Who are you, and what may you do: accounts, rights, tokens, and the certificates that a hub is known by."""
