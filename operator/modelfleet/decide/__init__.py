"""The decision, as values: no client, no clock, no randomness, no environment.

`cycle.decide(snapshot, history) -> Plan` composes nine steps, one module each: demand, capacity,
forecast, replicas, stabilize, bounds, admit, allocate, explain.
"""
