"""What the emulator lacks, one module per area. `apply` is called once, before the first request.

The modules reach into private names of the pinned emulator. Each replaces as little as it can and
keeps the emulator's own function behind it; `owned` refuses a name that is no longer there, so that a
changed emulator fails at start and not in the middle of a test.
"""


def apply() -> None:
    from . import calls, cloudformation, dynamodb, ec2, events, faults, function_url, iam, invocations, kills, s3, ssm, stepfunctions

    for area in (s3, dynamodb, ec2, ssm, events, function_url, invocations, kills, stepfunctions, cloudformation):
        area.install()
    calls.install()
    iam.install()
    faults.install()  # last: it stands in front of the patched services


def owned(module, name: str):
    """The emulator's own `module.name`; its absence means that this is not the emulator we know."""
    try:
        return getattr(module, name)
    except AttributeError:
        raise SystemExit(f"local-cloud: {module.__name__}.{name} is gone; is this the pinned emulator?") from None


def replace(module, name: str, build) -> None:
    """Put `build(original)` in the place of `module.name`."""
    setattr(module, name, build(owned(module, name)))
