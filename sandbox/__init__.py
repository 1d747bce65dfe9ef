"""A Kubernetes cluster on one machine, without containers: real control plane, pretend nodes, pretend GPUs."""
