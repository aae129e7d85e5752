"""What a node tells of itself and knows of the others: addresses, pod CIDRs, signs of life, routes, pods elsewhere."""
