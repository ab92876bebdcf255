"""The signing keys of one hub given to another, between files and rows: tokens that the one made go on to be good at the other."""

from __future__ import annotations

from auth.keys import KeySource, StoredKey, private_pem


def copy_keys(source: KeySource, destination: KeySource) -> int:
    """Have the destination hold the source's keys and no others, in their order; how many there are. KeysUnusable, OSError, StorageError.

    The newest signs: so what is new comes last, as it did at the source.
    """
    theirs = _keys(source)
    ours = _keys(destination)
    for pem, key in ours.items():
        if pem not in theirs:
            destination.remove(key)
    for pem, key in theirs.items():
        if pem not in ours:
            destination.add(pem, key.created_at, is_first=False)
    return len(theirs)


def _keys(source: KeySource) -> dict[bytes, StoredKey]:
    found: dict[bytes, StoredKey] = {}
    for stored in sorted(source.list(), key=lambda key: key.number):
        key = stored.load()
        if key is not None:
            found[private_pem(key)] = stored
    return found
