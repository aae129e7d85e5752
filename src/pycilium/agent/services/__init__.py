"""A node's Services: from the intent tables to frontends in the maps, and what a node does for Services besides."""
