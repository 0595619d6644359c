"""Function URLs of type AWS_IAM: the signature is checked, and the function learns whom IAM vouches for.

Without --auth the emulator takes any Authorization header and tells the function nothing. Whether a policy
lets the caller in is still not asked then.
"""

import contextvars
import json

from ministack.core import sigv4
from ministack.core.iam_evaluator import CredentialResolutionError, ResolvedCredential, resolve_credential
from ministack.services import lambda_svc

from . import replace

_caller: contextvars.ContextVar[ResolvedCredential | None] = contextvars.ContextVar("local_cloud_caller", default=None)


def install() -> None:
    replace(lambda_svc, "handle_function_url_request", _handle)
    replace(lambda_svc, "_build_function_url_event", _build_event)


def _handle(handle):
    async def handle_function_url_request(url_id, method, path, headers, body, query_params, resolved=None, **more):
        resolved = resolved or lambda_svc.resolve_function_url(url_id)
        caller = None
        if resolved and resolved[4].get("AuthType") == "AWS_IAM" and headers.get("authorization"):
            caller = _vouched(resolved[0], url_id, method, path, headers, body, query_params)
            if isinstance(caller, str):
                return 403, {"Content-Type": "application/json", "x-amzn-ErrorType": "AccessDeniedException"}, \
                    json.dumps({"Message": caller}).encode()
        token = _caller.set(caller)
        try:
            return await handle(url_id, method, path, headers, body, query_params, resolved=resolved, **more)
        finally:
            _caller.reset(token)

    return handle_function_url_request


def _vouched(account, url_id, method, path, headers, body, query_params) -> ResolvedCredential | str:
    """The caller, or why there is none. A client signs the path it used: the URL's own, or the one with the id in it."""
    signature = sigv4.parse_header_signature(headers)
    if isinstance(signature, tuple):
        return signature[1]
    credential = resolve_credential(signature.access_key_id, account, headers.get("x-amz-security-token") or "")
    if isinstance(credential, CredentialResolutionError):
        return credential.message
    failure = sigv4.request_time_failure(signature)
    if failure:
        return failure[1]
    for used in (path, f"/_aws/lambda-url/{url_id}{path}"):
        failure = sigv4.header_signature_failure(signature, credential.secret_access_key, method, used, query_params,
                                                 headers, body)
        if failure is None:
            return credential
    return failure[1]


def _build_event(build):
    def build_event(*arguments, **named):
        event, caller = build(*arguments, **named), _caller.get()
        if caller is not None:
            event["requestContext"]["authorizer"] = {"iam": {
                "accessKey": caller.access_key_id, "accountId": caller.account_id, "callerId": caller.principal_id,
                "cognitoIdentity": None, "principalOrgId": None, "userArn": caller.principal_arn,
                "userId": caller.principal_id}}
        return event

    return build_event
