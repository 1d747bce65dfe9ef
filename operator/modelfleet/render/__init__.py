"""From kinds to manifests: Deployment, Service and PodDisruptionBudget, as plain dictionaries."""
