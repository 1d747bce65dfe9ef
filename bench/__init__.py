"""Measurements of the operator on a real control plane, with its peers in the same run."""
