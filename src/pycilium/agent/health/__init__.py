"""The node's health: responders, the prober, and how its report is shown."""
