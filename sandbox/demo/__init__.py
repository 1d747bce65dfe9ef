"""`make demo`: the product at work on a real control plane, in two acts that judge themselves."""
