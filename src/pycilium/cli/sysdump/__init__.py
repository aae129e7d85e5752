"""`cilium sysdump`: one archive from which a stranger can tell what is wrong, without a secret in it."""
