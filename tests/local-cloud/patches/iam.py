"""What `--auth` needs in order to judge this stack's policies as AWS does.

- every connection counts as TLS 1.3: the emulator speaks plain HTTP, and the bucket refuses that
- aws:PrincipalArn of a session is its role's ARN
- S3's keys of a write: s3:if-none-match, s3:ObjectCreationOperation, the KMS key
- an absent object is forbidden to whom may not list the bucket whatever the prefix
- policy variables (${aws:PrincipalTag/…}) in resources
- SendCommand, GetParametersByPath, SendTask…, RunInstances and TerminateInstances are judged on every resource that they touch (calls.py knows them), with the
  resources' tags and, for a launch, what the launch template and the request say
"""


import re
from dataclasses import replace as changed

from . import calls, replace

TLS = "1.3"
ON_EACH_RESOURCE = ("ssm:SendCommand", "ssm:GetParametersByPath", "states:SendTask", "ec2:RunInstances", "ec2:TerminateInstances")


def install() -> None:
    from ministack import app
    from ministack.core import iam_actions, iam_evaluator

    replace(iam_evaluator, "_resolve_condition_key", _condition_key)
    replace(iam_actions, "s3_service_context", _keys_of_a_write)
    replace(iam_evaluator, "enforce", _on_each_resource)
    replace(iam_evaluator, "_first_match", _with_variables)
    replace(app, "_dispatch_service_request", _absent_or_forbidden)


def _condition_key(resolve):
    def resolve_condition_key(key, ctx):
        name = key.lower()
        if name == "aws:securetransport":
            return "true"
        if name == "s3:tlsversion":
            return TLS
        if name == "aws:principalarn" and ":assumed-role/" in ctx.principal_arn:
            account, role = ctx.principal_arn.split(":")[4], ctx.principal_arn.split("/")[1]
            return f"arn:aws:iam::{account}:role/{role}"
        return resolve(key, ctx)

    return resolve_condition_key


def _with_variables(first_match):
    """A variable without a value matches nothing."""

    def fill(patterns: list[str], ctx) -> list[str]:
        from ministack.core import iam_evaluator

        def value(variable):
            found = iam_evaluator._resolve_condition_key(variable[1], ctx)
            return found if isinstance(found, str) else "\0"

        return [re.sub(r"\$\{([^}]+)\}", value, pattern) for pattern in patterns]

    def match(ctx, statements, effect):
        filled = [changed(each, resources=fill(each.resources, ctx), not_resources=fill(each.not_resources, ctx)) for each in statements]
        return first_match(ctx, filled, effect)

    return match


def _absent_or_forbidden(dispatch):
    async def dispatch_service_request(method, path, headers, body, query_params, request_id):
        from ministack import app
        from ministack.core import iam_evaluator
        from ministack.core.router import extract_access_key_id, extract_region

        reply = await dispatch(method, path, headers, body, query_params, request_id)
        reads = [arn for action, arns in calls.asked() if action in ("s3:GetObject", "s3:GetObjectVersion") for arn in arns]
        if not app.AUTH or reply[0] != 404 or not reads:
            return reply
        denied = iam_evaluator.enforce(extract_access_key_id(headers, query_params), "s3:ListBucket", "s3",
                                       extract_region(headers, query_params), resource_arn=reads[0].split("/", 1)[0])
        if not denied:
            return reply
        error = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        return 403, {"Content-Type": "application/xml", "x-amzn-requestid": request_id}, b"" if method == "HEAD" else error

    return dispatch_service_request


def _keys_of_a_write(of_a_request):
    def s3_service_context(iam_action, query_params, path="", headers=None):
        context = of_a_request(iam_action, query_params, path, headers)
        if iam_action == "s3:PutObject":
            query, headers = query_params or {}, headers or {}
            # An upload's start and its parts create nothing; an object appears with PutObject or the upload's completion.
            creates = "uploads" not in query and "partNumber" not in query
            context["s3:ObjectCreationOperation"] = str(creates).lower()
            for header, key in (("if-none-match", "s3:if-none-match"),
                                ("x-amz-server-side-encryption-aws-kms-key-id", "s3:x-amz-server-side-encryption-aws-kms-key-id")):
                if header in headers:
                    context[key] = headers[header]
        return context

    return s3_service_context


def _on_each_resource(enforce):
    def enforce_on_each(access_key_id, iam_action, service, region, resource_arn="*", service_context=None):
        asked = calls.asked()
        if not iam_action.startswith(ON_EACH_RESOURCE) or not asked:
            return enforce(access_key_id, iam_action, service, region, resource_arn=resource_arn, service_context=service_context)
        for resource in dict.fromkeys(each for action, resources in asked if action == iam_action for each in resources):
            context = {**(service_context or {}), **_tags(resource), **(calls.launch_context() if iam_action == "ec2:RunInstances" else {})}
            if denied := enforce(access_key_id, iam_action, service, region, resource_arn=resource, service_context=context):
                return denied
        return None

    return enforce_on_each


def _tags(resource: str) -> dict:
    """An instance's, as both services name them."""
    from . import ec2
    from .hosts import hosts

    instance = resource.rsplit("/", 1)[-1]
    tags = ec2.describe(instance)["tags"] if hosts.get(instance) else {}
    return {f"{prefix}/{name}": value for name, value in tags.items() for prefix in ("ssm:resourceTag", "ec2:ResourceTag")}


