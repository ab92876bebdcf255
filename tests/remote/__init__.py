"""Tests of the client of registries."""
