"""One pod's page becomes the numbers its dialect names, and nothing else of the page does."""

from random import Random

import pytest

from modelfleet.adapters.exposition import MAX_SERIES, BadExposition, fold, read
from modelfleet.api.engine import Engine
from modelfleet.engines.dialects import DIALECTS
from tests.adapters.pages import PAGES, VLLM_BEFORE_0_10, VLLM_DATA_PARALLEL

DIALECT = DIALECTS[Engine.VLLM]
ABSENT = "the engine does not expose it"

Numbers = tuple[float | str, float | str, float | str, float | str, float | str]


def _numbers(page: str, engine: Engine) -> Numbers:
    """Return queued, running, output tokens, finished requests and the fullest KV cache."""
    dialect = DIALECTS[engine]
    samples = read(page, dialect)
    return (
        fold(samples, dialect.queued_requests),
        fold(samples, dialect.running_requests),
        fold(samples, dialect.output_tokens),
        fold(samples, dialect.finished_requests),
        fold(samples, dialect.kv_cache_utilization),
    )


EXPECTED: dict[Engine, Numbers] = {
    Engine.VLLM: (7, 31, 1_827_400, 9137, 0.8231),
    Engine.SGLANG: (5, 12, 70_000, 350, 0.31),
    Engine.TGI: (9, 24, 242_000, 1210, ABSENT),
    Engine.TRTLLM: (3, 6, 3300, 33, 0.42),
    Engine.NIM: (1, 4, 55_000, 511, 0.07),
    Engine.LLAMACPP: (2, 1, 5100, ABSENT, ABSENT),
}


@pytest.mark.parametrize("engine", Engine)
def test_page_of_every_engine(engine: Engine) -> None:
    """Six engines' pages give the same five numbers, past names that only begin alike."""
    expected = EXPECTED[engine]
    actual = _numbers(PAGES[engine], engine)

    assert expected == actual


def test_live_throughput_where_an_engine_has_it() -> None:
    """SGLang's tokens move at request end; its gauge does not wait."""
    dialect = DIALECTS[Engine.SGLANG]
    actual = fold(read(PAGES[Engine.SGLANG], dialect), dialect.output_tokens_per_second)

    assert actual == 1432.5


INTERVALS: dict[str, tuple[str, Engine, tuple[float, float]]] = {
    "vLLM": (PAGES[Engine.VLLM], Engine.VLLM, (40_001.75, 1_818_263)),
    "vLLM before 0.11": (VLLM_BEFORE_0_10, Engine.VLLM, (17.82, 891)),
    "two ranks of vLLM": (VLLM_DATA_PARALLEL, Engine.VLLM, (158.5, 8910)),
    "SGLang": (PAGES[Engine.SGLANG], Engine.SGLANG, (836, 69_650)),
    "TGI, by requests": (PAGES[Engine.TGI], Engine.TGI, (36.3, 1210)),
    "trtllm-serve, by requests": (PAGES[Engine.TRTLLM], Engine.TRTLLM, (0.288, 32)),
    "NIM": (PAGES[Engine.NIM], Engine.NIM, (381.25, 54_489)),
    "llama.cpp, by slots": (PAGES[Engine.LLAMACPP], Engine.LLAMACPP, (186.25, 5100)),
}


@pytest.mark.parametrize("case", INTERVALS)
def test_time_between_tokens(case: str) -> None:
    """Seconds between tokens and their count, past buckets, creation times and means per request."""
    page, engine, expected = INTERVALS[case]
    dialect = DIALECTS[engine]
    samples = read(page, dialect)
    actual = (fold(samples, dialect.inter_token_seconds_sum), fold(samples, dialect.inter_token_seconds_count))

    assert expected == actual


def test_a_histogram_under_two_names_is_one() -> None:
    """vLLM 0.11 writes both names, and older ones too with --show-hidden-metrics-for-version."""
    name, old = "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"
    page = f"{old}_sum 9\n{old}_count 100\n{name}_sum 4\n{name}_count 200\n"
    samples = read(page, DIALECT)
    actual = (fold(samples, DIALECT.inter_token_seconds_sum), fold(samples, DIALECT.inter_token_seconds_count))

    assert actual == (4, 200)


def test_data_parallel_ranks_are_one_pod() -> None:
    """Counts of ranks add up; the fullest rank is the one that starts to queue."""
    expected = (42, 380, 9000, 90, 0.97)
    actual = _numbers(VLLM_DATA_PARALLEL, Engine.VLLM)

    assert expected == actual


def test_older_name() -> None:
    """vLLM before 0.10 calls its KV cache otherwise."""
    actual = _numbers(VLLM_BEFORE_0_10, Engine.VLLM)[4]

    assert actual == 0.25


def test_the_newer_of_two_names_counts() -> None:
    """While an engine writes a metric under both names, it is not counted twice."""
    page = "trtllm_generation_tokens 7\ntrtllm_generation_tokens_total 7\n"
    dialect = DIALECTS[Engine.TRTLLM]
    actual = fold(read(page, dialect), dialect.output_tokens)

    assert actual == 7


LINES: dict[str, tuple[str, float | str]] = {
    "without labels": ("vllm:num_requests_waiting 3", 3),
    "with a timestamp": ('vllm:num_requests_waiting{engine="0"} 3 1763957042000', 3),
    "with spaces": ('vllm:num_requests_waiting{engine="0"}   3  ', 3),
    "with a tab": ("vllm:num_requests_waiting\t3", 3),
    "in scientific notation": ("vllm:num_requests_waiting 3e0", 3),
    "of a Windows page": ("vllm:num_requests_waiting 3\r", 3),
    "with an exemplar": ('vllm:num_requests_waiting{engine="0"} 3 # {trace_id="a"} 0.67 1763957042', 3),
    "a brace in a label": ('vllm:num_requests_waiting{model_name="a}b{c"} 3', 3),
    "a quote in a label": ('vllm:num_requests_waiting{model_name="a\\"} 9 \\"b"} 3', 3),
    "a comment's sign in a label": ('vllm:num_requests_waiting{model_name="a # b"} 3', 3),
    "a line separator in a label": ('vllm:num_requests_waiting{model_name="a\u2028b"} 3', 3),
    "a form feed in a label, and a line after it": (
        'vllm:num_requests_waiting{model_name="a\x0cvllm:num_requests_waiting 0"} 3',
        3,
    ),
    "a name that goes on": (
        "vllm:num_requests_waiting_by_reason 3",
        "vllm:num_requests_waiting is not on the metrics page",
    ),
    "a comment": ("# vllm:num_requests_waiting 3", "vllm:num_requests_waiting is not on the metrics page"),
    "nothing": ("", "vllm:num_requests_waiting is not on the metrics page"),
    "not a number": ("vllm:num_requests_waiting NaN", "vllm:num_requests_waiting is not a sane number"),
    "infinite": ("vllm:num_requests_waiting +Inf", "vllm:num_requests_waiting is not a sane number"),
    "negative": ("vllm:num_requests_waiting -1", "vllm:num_requests_waiting is not a sane number"),
    "more than any process counts": (
        "vllm:num_requests_waiting 1e16",
        "vllm:num_requests_waiting is not a sane number",
    ),
    "larger than a float": ("vllm:num_requests_waiting 1e400", "vllm:num_requests_waiting is not a sane number"),
    "four hundred digits": ("vllm:num_requests_waiting " + "9" * 400, "vllm:num_requests_waiting is not a sane number"),
    "one sane rank and one that is not": (
        'vllm:num_requests_waiting{engine="0"} 3\nvllm:num_requests_waiting{engine="1"} NaN',
        "vllm:num_requests_waiting is not a sane number",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_line(case: str) -> None:
    """A line is read as the format has it; what is no sane number is no number."""
    page, expected = LINES[case]
    actual = fold(read(page + "\n", DIALECT), DIALECT.queued_requests)

    assert expected == actual


BROKEN = {
    "no value": "vllm:num_requests_waiting",
    "no value after labels": 'vllm:num_requests_waiting{engine="0"}',
    "a word": "vllm:num_requests_waiting three",
    "hexadecimal": "vllm:num_requests_waiting 0x10",
    "digits of another language": "vllm:num_requests_waiting 1_0",
    "labels that do not end": 'vllm:num_requests_waiting{engine="0',
    "a label that does not end": 'vllm:num_requests_waiting{engine="0} 3',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_wanted_line_is_a_broken_page(case: str) -> None:
    """A rank that is left out silently would make the sum of the others look complete."""
    page = f'vllm:num_requests_waiting{{engine="1"}} 3\n{BROKEN[case]}\n'

    with pytest.raises(BadExposition):
        read(page, DIALECT)


def test_a_broken_line_that_nobody_wants_is_nothing() -> None:
    """Other metrics of the page may be as they like."""
    page = "my_metric{ oops\nvllm:num_requests_waiting_by_reason{ oops\n<html>\nvllm:num_requests_waiting 3\n"
    actual = read(page, DIALECT)

    assert actual == {"vllm:num_requests_waiting": [3]}


def test_series_are_bounded() -> None:
    """A page of a million ranks is refused before it is summed."""
    line = 'vllm:num_requests_waiting{{engine="{}"}} 1\n'
    most = "".join(line.format(number) for number in range(MAX_SERIES))

    assert fold(read(most, DIALECT), DIALECT.queued_requests) == MAX_SERIES
    with pytest.raises(BadExposition):
        read(most + line.format("more"), DIALECT)


def test_garbage_is_a_broken_page_or_nothing() -> None:
    """Of 20,000 random lines each is read or refused; none does anything else."""
    random = Random("garbage")
    alphabet = '{}="\\,# \t01.eN+-a_:%\x00é'
    for _ in range(20_000):
        line = "vllm:num_requests_waiting" + "".join(random.choice(alphabet) for _ in range(random.randint(0, 14)))
        try:
            samples = read(line, DIALECT)
        except BadExposition:
            continue
        assert all(isinstance(value, float) for values in samples.values() for value in values)
