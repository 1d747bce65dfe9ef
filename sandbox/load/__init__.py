"""An open-loop load generator: arrivals from traces or shapes, sent to the ready pods of one ModelDeployment.

`arrivals`, `traces`, `shapes` and `latency` are pure; `pool` follows the pods, `client` sends and measures.
"""
