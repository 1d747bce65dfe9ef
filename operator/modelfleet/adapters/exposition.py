"""One pod's metrics text becomes the numbers its dialect names.

Only the wanted lines are read, and of them only name and value, for no label decides anything: 55 µs for a
vLLM page of 21 KB. prometheus_client's parser takes 31 ms for the whole page, and 205 µs for the wanted
lines; with a pod scraped each second that parser alone was a third of the operator's CPU.
"""

import re
from collections.abc import Mapping
from math import isfinite

from modelfleet.engines.dialects import Dialect, Fold, Metric

MAX_SERIES = 5_000
PLAUSIBLE = 1e15
"""No counter of tokens or requests of one process passes this."""


# name{labels} value [timestamp] [# exemplar]. A quoted label value may hold anything: braces, # and separators.
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SAMPLE = re.compile(r"""([\w:]+)(?:\{(?:[^"}]++|"(?:[^"\\]++|\\.)*+")*+\})?[ \t]+([^\s_]+)(?:\s|$)""")


class BadExposition(Exception):
    """The page is not what a metrics page is; the message says how."""


def read(page: str, dialect: Dialect) -> dict[str, list[float]]:
    """Return every wanted sample of a page by its exact name.

    Raises:
        BadExposition: When a wanted line does not parse, or there are too many of them.
    """
    names = dialect.names()
    known = frozenset(names)
    samples: dict[str, list[float]] = {}
    count = 0
    # Not splitlines(): only \n ends a line, and a label's value may hold what Unicode calls a line separator.
    for line in page.split("\n"):
        if not line.startswith(names):
            continue
        count += 1
        if count > MAX_SERIES:
            raise BadExposition(f"more than {MAX_SERIES} series of wanted names")
        sample = _SAMPLE.match(line)
        name = sample[1] if sample else _NAME.findall(line)[0]
        if name not in known:
            continue
        try:
            # A line left out silently would make the sum of the other ranks look complete.
            samples.setdefault(name, []).append(float(sample[2] if sample else ""))
        except ValueError as error:
            raise BadExposition(f"a metrics line does not parse: {line[:100]}") from error
    return samples


def fold(samples: Mapping[str, list[float]], metric: Metric) -> float | str:
    """Return one number for a pod, or why there is none.

    Args:
        samples: What `read` returned.
        metric: The concept; the first of its names that the page has is used.
    """
    if not metric.names:
        return "the engine does not expose it"
    for name in metric.names:
        values = samples.get(name)
        if values is None:
            continue
        if not all(isfinite(value) and 0 <= value <= PLAUSIBLE for value in values):
            return f"{name} is not a sane number"
        return sum(values) if metric.fold is Fold.SUM else max(values)
    return f"{metric.names[0]} is not on the metrics page"
