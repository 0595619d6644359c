"""DynamoDB: a query of a big partition answers as one of a small partition does, and soon."""

import random
import time

import pytest

KEYS = [f"backup#{n:06}" for n in range(6000)]
SMALL = KEYS[::10]


@pytest.fixture
def table(cloud):
    client = cloud.client("dynamodb")
    client.create_table(TableName="items", BillingMode="PAY_PER_REQUEST",
                        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
                        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")])
    shuffled = KEYS[:]
    random.Random(7).shuffle(shuffled)
    put(client, "big", shuffled)
    put(client, "small", [key for key in shuffled if key in set(SMALL)])
    return client


def put(client, pk: str, keys: list[str]) -> None:
    for start in range(0, len(keys), 100):
        client.transact_write_items(TransactItems=[
            {"Put": {"TableName": "items", "Item": {"pk": {"S": pk}, "sk": {"S": key}, "n": {"S": "x" * 50}}}} for key in keys[start:start + 100]])


def query(client, pk: str, low: str, high: str, **more) -> list[str]:
    """All pages."""
    request = {"TableName": "items", "ConsistentRead": True, "KeyConditionExpression": "pk = :pk AND sk BETWEEN :from AND :to",
               "ExpressionAttributeValues": {":pk": {"S": pk}, ":from": {"S": low}, ":to": {"S": high}}, **more}
    found = []
    while True:
        page = client.query(**request)
        found += [item["sk"]["S"] for item in page["Items"]]
        if not (last := page.get("LastEvaluatedKey")) or len(found) > 40:
            return found
        request["ExclusiveStartKey"] = last


def test_a_big_partition_answers_as_a_small_one(table):
    for low, high in (("backup#000100", "backup#000130"), ("backup#", "backup#\U0010ffff"), ("a", "b"), (KEYS[-1], "z"), ("x", "y")):
        for more in ({}, {"Limit": 7}, {"ScanIndexForward": False}, {"ScanIndexForward": False, "Limit": 10}):
            for pk, keys in (("big", KEYS), ("small", SMALL)):
                wanted = [key for key in keys if low <= key <= high][::-1 if "ScanIndexForward" in more else 1]
                found = query(table, pk, low, high, **more)
                assert found[:30] == wanted[:30] and bool(found) == bool(wanted), (pk, low, high, more)


def test_what_is_written_and_removed_is_seen_at_once(table):
    of = {"TableName": "items"}
    assert query(table, "big", "backup#000001x", "backup#000001z") == []
    put(table, "big", ["backup#000001y"])
    assert query(table, "big", "backup#000001x", "backup#000001z") == ["backup#000001y"]
    table.delete_item(**of, Key={"pk": {"S": "big"}, "sk": {"S": "backup#000001y"}})
    put(table, "big", ["backup#000001z"])
    assert query(table, "big", "backup#000001x", "backup#000001z") == ["backup#000001z"]


def test_a_range_of_a_big_partition_is_found_soon(table):
    query(table, "big", "backup#000001", "backup#000002")
    began = time.monotonic()
    for n in range(50):
        assert query(table, "big", KEYS[5900 + n], KEYS[5910 + n], Limit=20) == KEYS[5900 + n:5911 + n]
    assert time.monotonic() - began < 5, "evaluating every item takes half a minute"
