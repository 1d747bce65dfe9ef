"""Where effects happen: kopf handlers, the fleet loop, writes, leadership, telemetry."""
