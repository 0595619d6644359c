"""What a test may tune while the cloud runs (`PUT /_local-cloud/settings`). Production code sees none of it."""

import os
from dataclasses import asdict, dataclass, fields


@dataclass
class Settings:
    """A scale of 0.01 turns a minute of the template's into 0.6 s of the test's."""

    sfn_wait_scale: float = float(os.environ.get("SFN_WAIT_SCALE", "1"))  # Wait states, pauses between retries
    # TimeoutSeconds and HeartbeatSeconds of tasks, TimeoutSeconds of machines: a change is felt by what waits already,
    # but for tasks that wait for an answer of their own call
    sfn_timeout_scale: float = 1.0
    sfn_machine_timeout_scale: float = 1.0  # of machines alone, on top of that
    ssm_time_scale: float = 1.0  # TimeoutSeconds of SendCommand, timeoutSeconds of a document's step
    lambda_retry_s: float = 1.0  # before the first retry of an asynchronous invocation; AWS waits a minute
    boot_delay_s: float = 0.05  # pending → running
    power_minute_s: float = 60.0  # the minute of `shutdown -h +1`
    shutdown_grace_s: float = 1.0  # between SIGTERM and SIGKILL when an instance goes down

    def update(self, changes: dict) -> None:
        known = {field.name for field in fields(self)}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"no such setting: {name}; there are {', '.join(sorted(known))}")
            setattr(self, name, float(value))

    def reset(self) -> None:
        self.__init__()

    as_dict = asdict


settings = Settings()
