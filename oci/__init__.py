"""Values of the OCI specifications: digests, references, descriptors, manifests, configs. No I/O, no clock."""
