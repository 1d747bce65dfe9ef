"""Simulated inference engines that really listen at their pods' addresses.

`profile` and `faults` say how an engine behaves, `batch` how it schedules, `meters` and `dialects` how it
reports (all pure); `server` speaks HTTP, `kubelet` follows the cluster's pods, `real` runs llama.cpp instead.
"""
