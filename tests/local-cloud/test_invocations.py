"""Whether a function runs, whoever invoked it."""

from conftest import bootstrap, eventually


def test_invocation_is_seen_while_it_runs_and_its_end_too(cloud):
    cloud.function("sleeps", bootstrap("import time\ntime.sleep(1)\nreturn 1"))
    before = cloud.control("GET", "invocations")
    assert before["running"] == 0
    cloud.client("lambda").invoke(FunctionName="sleeps", InvocationType="Event", Payload=b"{}")
    eventually(lambda: cloud.control("GET", "invocations")["running"] > 0)
    eventually(lambda: cloud.control("GET", "invocations")["running"] == 0)
    assert cloud.control("GET", "invocations")["ended"] > before["ended"]
