"""Grafana dashboards from one description: their JSON, a scene on the sandbox that fills them, and their pictures."""
