"""A deployment on paper: requests, replicas and autoscalers, played faster than life.

Requests (arrivals, shapes, traces) meet replicas (calibration, batch, replica) in a world of pods that
start slowly (world). A policy (policy, ours, rivals) sees what a real one would see, as often and as
late, and says how many replicas it wants. What came of it is scored (score) and compared (frontier).
"""
