"""A node's endpoints: their life, labels, identities and files, and what the other nodes are told of them."""
