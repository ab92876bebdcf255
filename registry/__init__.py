"""The registry's HTTP server (OCI distribution-spec)."""
