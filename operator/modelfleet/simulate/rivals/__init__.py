"""The autoscalers that people use instead, as faithful as their public source allows.

They are ports of algorithms, not the programs: each module names the files its constants come from, and each is
tuned over a grid as its own experts would. What a real one sees late, it sees late here.
"""

from typing import Final

from modelfleet.simulate.policy import Kind
from modelfleet.simulate.rivals import aibrix, dynamo, hpa, keda, knative, kubeai, static, wva

KINDS: Final[tuple[Kind, ...]] = (
    hpa.IN_FLIGHT,
    hpa.TOKENS,
    keda.KIND,
    knative.KIND,
    knative.DELAYED,
    wva.KIND,
    dynamo.LOAD,
    dynamo.THROUGHPUT,
    aibrix.KIND,
    aibrix.DAMPED,
    kubeai.KIND,
    static.KIND,
)
"""In the order in which they are shown."""
