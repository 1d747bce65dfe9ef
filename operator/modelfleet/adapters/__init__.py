"""The outside world: the API server, the pods' metrics, Prometheus. Errors by name, values out."""
