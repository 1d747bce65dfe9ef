"""Modelfleet: a Kubernetes operator that turns GPUs into a Model-as-a-Service."""
