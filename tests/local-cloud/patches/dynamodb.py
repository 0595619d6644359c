"""DynamoDB: a query seeks, and reads its condition once.

The engine parses the condition and checks its grammar anew for every item that it evaluates it on: what depends on the text
alone is kept. It sorts a partition and evaluates the condition on every item of it, which takes seconds where there are hundreds
of thousands: of a big one, a query by the table's own key with `… BETWEEN …` sees its range only, found by bisection.
"""

import re
import threading
from bisect import bisect_left, bisect_right
from functools import lru_cache

from ministack.services import dynamodb

from . import replace

BIG = 5000  # items of a partition; below, the engine's own way is good enough
SEEKS = re.compile(r"\s*(\S+)\s*=\s*(:\w+)\s+AND\s+(\S+)\s+BETWEEN\s+(:\w+)\s+AND\s+(:\w+)\s*", re.IGNORECASE)

# Of a partition's dictionary: its size and last key when it was sorted, and its keys in order.
_sorted: dict[int, tuple] = {}


def install() -> None:
    replace(dynamodb, "_query", _query)
    replace(dynamodb, "_condition_syntax_error", lru_cache(maxsize=1000))
    replace(dynamodb, "_tokenize", _tokenize)


class _View:
    """The tables as one thread sees them for the time of one query: one of them cut to a range."""

    def __init__(self, tables, name: str, table: dict):
        self._tables, self._name, self._table, self._thread = tables, name, table, threading.get_ident()

    def get(self, name, default=None):
        if name == self._name and threading.get_ident() == self._thread:
            return self._table
        return self._tables.get(name, default)

    def __getitem__(self, name):
        return self._table if self.get(name) is self._table else self._tables[name]

    def __setitem__(self, name, table):
        self._tables[name] = table

    def __contains__(self, name):
        return name in self._tables

    def __getattr__(self, name):
        return getattr(self._tables, name)


def _tokenize(tokenize):
    once = lru_cache(maxsize=1000)(tokenize)
    return lambda expr: list(once(expr))


def _query(query):
    def seek(data):
        tables, name = dynamodb._tables, dynamodb._normalize_table_name(data.get("TableName"))
        table = tables.get(name)
        wanted = SEEKS.fullmatch(data.get("KeyConditionExpression") or "")
        if not table or not wanted or data.get("IndexName") or not table.get("sk_name"):
            return query(data)
        values = data.get("ExpressionAttributeValues", {})
        pk, low, high = (values.get(wanted[n], {}).get("S") for n in (2, 4, 5))
        bucket = table["items"].get(pk)
        if low is None or high is None or bucket is None or len(bucket) < BIG:
            return query(data)
        cut = {key: bucket[key] for key in _range(bucket, low, high, data, table["sk_name"])}
        dynamodb._tables = _View(tables, name, {**table, "items": {pk: cut}})
        try:
            return query(data)
        finally:
            dynamodb._tables = tables

    return seek


def _range(bucket: dict, low: str, high: str, data: dict, sk: str) -> list[str]:
    """The keys that the query can answer with: with a limit, one more than it, so that the engine sees that there is more."""
    keys = _keys(bucket)
    first, after = bisect_left(keys, low), bisect_right(keys, high)
    backwards = data.get("ScanIndexForward") is False
    if (start := data.get("ExclusiveStartKey", {}).get(sk, {}).get("S")) is not None:
        first, after = (first, min(after, bisect_left(keys, start))) if backwards else (max(first, bisect_right(keys, start)), after)
    # Without a filter every item counts, and a page ends after a megabyte: nobody answers with more items than that.
    some = int(data["Limit"]) + 1 if data.get("Limit") and not data.get("FilterExpression") else None
    return keys[first:after] if some is None else keys[max(first, after - some):after] if backwards else keys[first:min(after, first + some)]


def _keys(bucket: dict) -> list[str]:
    state = (len(bucket), next(reversed(bucket)))
    known = _sorted.get(id(bucket))
    if known is None or known[0] != state:
        known = _sorted[id(bucket)] = (state, sorted(bucket))
    return known[1]
