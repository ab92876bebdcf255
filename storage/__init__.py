"""Bytes and facts, in blocking code that knows no HTTP."""
