"""The instance metadata service, one listener per instance: version 2 only, as the launch template asks.

The emulator has one for all instances, with fixed answers. A script finds its own through
AWS_EC2_METADATA_SERVICE_ENDPOINT, which every AWS SDK reads.
"""

import json
import secrets
import threading
import time
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ministack.core import lambda_runtime
from ministack.core.responses import request_scope
from ministack.services import ec2, iam

TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aws-ec2-metadata-token"


class Metadata:
    """Answers for one instance until `close`."""

    def __init__(self, instance_id: str, scope: tuple[str, str]):
        self.instance_id, self.scope = instance_id, scope
        self._tokens: dict[str, float] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"metadata": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def new_token(self, ttl_s: int) -> str:
        token = secrets.token_urlsafe(42)
        self._tokens[token] = time.monotonic() + ttl_s
        return token

    def knows(self, token: str | None) -> bool:
        return self._tokens.get(token or "", 0) > time.monotonic()

    def answer(self, path: str) -> str | None:
        account, region = self.scope
        with request_scope(account, region):
            instance = ec2._instances.get(self.instance_id)
            if instance is None:
                return None
            role = self._role(instance)
            return self._tree(instance, role, account, region).get(path.rstrip("/"), lambda: None)()

    def _tree(self, instance: dict, role: dict | None, account: str, region: str) -> dict:
        zone = instance["Placement"]["AvailabilityZone"]
        base, credentials = "/latest/meta-data", "/latest/meta-data/iam/security-credentials"
        tree = {
            f"{base}/instance-id": lambda: self.instance_id,
            f"{base}/ami-id": lambda: instance["ImageId"],
            f"{base}/instance-type": lambda: instance["InstanceType"],
            f"{base}/local-ipv4": lambda: instance["PrivateIpAddress"],
            f"{base}/hostname": lambda: instance["PrivateDnsName"],
            f"{base}/placement/region": lambda: region,
            f"{base}/placement/availability-zone": lambda: zone,
            "/latest/user-data": lambda: ec2_user_data(instance),
            "/latest/dynamic/instance-identity/document": lambda: json.dumps({
                "accountId": account, "region": region, "availabilityZone": zone, "instanceId": self.instance_id,
                "imageId": instance["ImageId"], "instanceType": instance["InstanceType"], "version": "2017-09-30"}),
        }
        if role:
            tree[credentials] = lambda: role["RoleName"]
            tree[f"{credentials}/{role['RoleName']}"] = lambda: json.dumps(self._credentials(role))
            tree[f"{base}/iam/info"] = lambda: json.dumps(
                {"Code": "Success", "InstanceProfileArn": instance["IamInstanceProfile"]["Arn"]})
        return tree

    def _role(self, instance: dict) -> dict | None:
        profile = instance.get("IamInstanceProfile") or {}
        found = iam._lookup_instance_profile(arn=profile.get("Arn", ""))
        return iam._roles.get((found.get("Roles") or [None])[0]) if found else None

    def _credentials(self, role: dict) -> dict:
        """A session of the role, made as the emulator makes a Lambda's; its name is the instance's id."""
        account, region = self.scope
        keys = lambda_runtime.execution_credentials({
            "Role": role["Arn"], "FunctionName": self.instance_id,
            "FunctionArn": f"arn:aws:lambda:{region}:{account}:function:{self.instance_id}"})
        now = datetime.now(timezone.utc)
        return {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": f"{now:%Y-%m-%dT%H:%M:%SZ}",
                "AccessKeyId": keys["AWS_ACCESS_KEY_ID"], "SecretAccessKey": keys["AWS_SECRET_ACCESS_KEY"],
                "Token": keys["AWS_SESSION_TOKEN"],
                "Expiration": f"{now + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}"}


def ec2_user_data(instance: dict) -> str | None:
    from .ec2 import decoded_user_data

    return decoded_user_data(instance)


class _Handler(BaseHTTPRequestHandler):
    metadata: Metadata

    def do_PUT(self):
        ttl = self.headers.get(TTL_HEADER, "")
        if self.path != "/latest/api/token" or not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            return self._reply(400, "")
        self._reply(200, self.metadata.new_token(int(ttl)), {TTL_HEADER: ttl})

    def do_GET(self):
        if not self.metadata.knows(self.headers.get(TOKEN_HEADER)):
            return self._reply(401, "")
        answer = self.metadata.answer(self.path)
        self._reply(404 if answer is None else 200, answer or "")

    def _reply(self, status: int, text: str, headers: dict | None = None):
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", "Content-Length": str(len(text.encode())),
                            **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass
