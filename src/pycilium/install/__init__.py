"""Installs: manifests for Kubernetes from one source, Helm's chart of the same, and what makes a cluster take them."""
