"""CloudFormation: the types and properties of our template that the emulator drops, applied.

- AWS::SSM::Document and AWS::CloudWatch::CompositeAlarm exist; an alarm of metric math is kept, but never computed
- AWS::S3::Bucket: versioning (also suspended), encryption, lifecycle, Object Lock; a bucket that holds
  objects is not deleted, as on AWS
- AWS::S3::BucketPolicy goes through PutBucketPolicy, which refuses what S3 refuses
- AWS::DynamoDB::Table (and GlobalTable): TTL, point-in-time recovery; a protected table is not deleted
- AWS::Lambda::Function: code that is not in its bucket fails the stack, not the first call; its dead letters
- a bucket's property that nobody applies fails the stack, an unknown type too
"""

import json
from xml.sax.saxutils import escape

from ministack.services import cloudwatch, dynamodb, lambda_svc, s3
from ministack.services.cloudformation import provisioners

from . import owned, replace, ssm_documents
from .ssm_documents import Refused

S3_NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
BUCKET_PROPERTIES = {
    # applied by the emulator
    "BucketName", "Tags", "NotificationConfiguration", "CorsConfiguration", "PublicAccessBlockConfiguration",
    "WebsiteConfiguration",
    # applied here
    "VersioningConfiguration", "BucketEncryption", "LifecycleConfiguration", "ObjectLockEnabled",
    "ObjectLockConfiguration", "OwnershipControls",
    # nothing to apply on one machine: nothing is replicated
    "AccessControl", "LoggingConfiguration", "AbacStatus", "ReplicationConfiguration",
}


def install() -> None:
    handlers = owned(provisioners, "_RESOURCE_HANDLERS")
    _extend(handlers["AWS::S3::Bucket"], _create_bucket, _update_bucket, _delete_bucket)
    handlers["AWS::S3::BucketPolicy"].update(create=_put_bucket_policy, update=_update_bucket_policy)
    for kind in ("AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable"):
        _extend(handlers[kind], _create_table, _update_table, _delete_table)
    function = handlers["AWS::Lambda::Function"]
    function.update(create=_whole_function(function["create"], 1), update=_whole_function(function["update"], 2))
    handlers["AWS::SSM::Document"] = {"create": _create_document, "update": _update_document,
                                      "delete": _delete_document}
    handlers["AWS::CloudWatch::CompositeAlarm"] = {"create": _create_composite, "update": _update_composite,
                                                   "delete": _delete_composite}
    replace(provisioners, "_cw_metric_alarm_record", _alarm_record)


def _extend(handler: dict, create, update, delete) -> None:
    handler.update(create=create(handler["create"]), update=update(handler["update"]),
                   delete=delete(handler["delete"]))


def _accepted(reply, what: str) -> None:
    """A service's own refusal fails the resource, with the service's words."""
    if reply[0] >= 300:
        raise ValueError(f"{what}: {reply[2].decode('utf-8', 'replace')}")


# ---- buckets

def _create_bucket(create):
    def create_bucket(logical_id, props, stack_name):
        _only_known(props)
        name, attributes = create(logical_id, props, stack_name)
        try:
            _configure_bucket(name, props, {})
        except Exception:
            s3._buckets.pop(name, None)  # the stack rolls back; nobody knows this bucket
            raise
        return name, attributes

    return create_bucket


def _update_bucket(update):
    def update_bucket(physical_id, old_props, new_props, stack_name):
        _only_known(new_props)
        name, attributes = update(physical_id, old_props, new_props, stack_name)
        _configure_bucket(name, new_props, old_props if name == physical_id else {})
        return name, attributes

    return update_bucket


def _delete_bucket(delete):
    def delete_bucket(physical_id, props):
        bucket = s3._buckets.get(physical_id)
        if bucket and (bucket["objects"] or any(name == physical_id and versions
                                                for (name, _), versions in s3._object_versions.items())):
            raise ValueError(f"The bucket {physical_id} you tried to delete is not empty")
        s3._bucket_object_lock.pop(physical_id, None)
        delete(physical_id, props)

    return delete_bucket


def _only_known(props: dict) -> None:
    unknown = set(props) - BUCKET_PROPERTIES
    if unknown:
        raise ValueError(f"the local cloud would drop {', '.join(sorted(unknown))} of AWS::S3::Bucket")


def _configure_bucket(name: str, props: dict, old: dict) -> None:
    versioning = (props.get("VersioningConfiguration") or {}).get("Status")
    locked = _true(props.get("ObjectLockEnabled"))
    if locked or versioning == "Enabled":
        _accepted(s3._put_bucket_versioning(name, _xml("VersioningConfiguration", {"Status": "Enabled"})), "versioning")
    elif versioning or "VersioningConfiguration" in old:
        _accepted(s3._put_bucket_versioning(name, _xml("VersioningConfiguration", {"Status": "Suspended"})), "versioning")
    if locked:
        lock = props.get("ObjectLockConfiguration") or {}
        _accepted(s3._put_object_lock_configuration(name, _xml("ObjectLockConfiguration", {
            "ObjectLockEnabled": "Enabled", **({"Rule": lock["Rule"]} if lock.get("Rule") else {})})), "Object Lock")
    elif props.get("ObjectLockConfiguration"):
        raise ValueError("ObjectLockConfiguration without ObjectLockEnabled")
    if encryption := props.get("BucketEncryption"):
        rules = [{"ApplyServerSideEncryptionByDefault": rule.get("ServerSideEncryptionByDefault"),
                  "BucketKeyEnabled": rule.get("BucketKeyEnabled")}
                 for rule in encryption["ServerSideEncryptionConfiguration"]]
        _accepted(s3._put_bucket_encryption(name, _xml("ServerSideEncryptionConfiguration", {"Rule": rules})), "encryption")
    elif "BucketEncryption" in old:
        s3._delete_bucket_encryption(name)
    if lifecycle := props.get("LifecycleConfiguration"):
        _accepted(s3._put_bucket_lifecycle(name, _xml("LifecycleConfiguration", {
            "Rule": [_lifecycle_rule(rule) for rule in lifecycle["Rules"]]})), "lifecycle")
    elif "LifecycleConfiguration" in old:
        s3._delete_bucket_lifecycle(name)
    if ownership := props.get("OwnershipControls"):
        _accepted(s3._put_bucket_ownership_controls(name, _xml("OwnershipControls", {"Rule": ownership["Rules"]})),
                  "ownership controls")


def _lifecycle_rule(rule: dict) -> dict:
    """CloudFormation's flat rule in S3's nested words."""
    days = {name: rule[name] for name in ("ExpirationInDays", "ExpiredObjectDeleteMarker") if name in rule}
    expiration = {"Days": days.get("ExpirationInDays"), "ExpiredObjectDeleteMarker": days.get("ExpiredObjectDeleteMarker")}
    known = {"Id", "Status", "Prefix", "TagFilters", "AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration",
             "Transitions", "NoncurrentVersionTransitions", "ObjectSizeGreaterThan", "ObjectSizeLessThan", *days}
    if unknown := set(rule) - known:
        raise ValueError(f"the local cloud would drop {', '.join(sorted(unknown))} of a lifecycle rule")
    conditions = {"Prefix": rule.get("Prefix"), "Tag": rule.get("TagFilters"),
                  "ObjectSizeGreaterThan": rule.get("ObjectSizeGreaterThan"),
                  "ObjectSizeLessThan": rule.get("ObjectSizeLessThan")}
    given = {key: value for key, value in conditions.items() if value not in (None, [])}
    several = len(given) > 1 or len(rule.get("TagFilters") or []) > 1
    return {
        "ID": rule.get("Id"), "Status": rule["Status"],
        "Filter": {"And": given} if several else given or {"Prefix": ""},
        "Expiration": expiration if days else None,
        "AbortIncompleteMultipartUpload": rule.get("AbortIncompleteMultipartUpload"),
        "NoncurrentVersionExpiration": rule.get("NoncurrentVersionExpiration"),
        "Transition": [{"Days": t.get("TransitionInDays"), "StorageClass": t["StorageClass"]}
                       for t in rule.get("Transitions") or []],
        "NoncurrentVersionTransition": [{"NoncurrentDays": t.get("TransitionInDays"), "StorageClass": t["StorageClass"],
                                         "NewerNoncurrentVersions": t.get("NewerNoncurrentVersions")}
                                        for t in rule.get("NoncurrentVersionTransitions") or []],
    }


def _xml(tag: str, content: dict) -> bytes:
    """S3's request body of a property: the names are the same, a list repeats its element."""

    def element(name: str, value) -> str:
        if value is None:
            return ""
        if isinstance(value, list):
            return "".join(element(name, item) for item in value)
        if isinstance(value, dict):
            inner = "".join(element(key, item)
                            for key, item in value.items())
        else:
            inner = escape(str(value).lower() if isinstance(value, bool) else str(value))
        return f"<{name}>{inner}</{name}>"

    inner = "".join(element(key, value) for key, value in content.items())
    return f"<{tag} {S3_NS}>{inner}</{tag}>".encode()


def _true(value) -> bool:
    return str(value).lower() == "true"


def _put_bucket_policy(_logical_id, props, _stack_name):
    name = props["Bucket"]
    _accepted(s3._put_bucket_policy(name, json.dumps(props["PolicyDocument"]).encode()), f"policy of {name}")
    return f"{name}-policy", {}


def _update_bucket_policy(physical_id, old_props, new_props, stack_name):
    result = _put_bucket_policy(physical_id, new_props, stack_name)
    if old_props.get("Bucket") != new_props.get("Bucket"):
        s3._bucket_policies.pop(old_props.get("Bucket"), None)
    return result


# ---- tables

def _create_table(create):
    def create_table(logical_id, props, stack_name):
        name, attributes = create(logical_id, props, stack_name)
        _configure_table(name, props, {})
        return name, attributes

    return create_table


def _update_table(update):
    def update_table(physical_id, old_props, new_props, stack_name, *logical_id, **named):
        name, attributes = update(physical_id, old_props, new_props, stack_name, *logical_id, **named)
        _configure_table(name, new_props, old_props)
        return name, attributes

    return update_table


def _delete_table(delete):
    def delete_table(physical_id, props):
        table = dynamodb._tables.get(physical_id)
        if table and table.get("DeletionProtectionEnabled"):
            raise ValueError(f"Resource cannot be deleted as it is currently protected against deletion: {physical_id}")
        delete(physical_id, props)
        dynamodb._ttl_settings.pop(physical_id, None)
        dynamodb._pitr_settings.pop(physical_id, None)

    return delete_table


def _configure_table(name: str, props: dict, old: dict) -> None:
    replica = (props.get("Replicas") or [{}])[0]  # a global table keeps these settings per replica
    protected = props.get("DeletionProtectionEnabled", replica.get("DeletionProtectionEnabled", False))
    dynamodb._tables[name]["DeletionProtectionEnabled"] = _true(protected)
    ttl = props.get("TimeToLiveSpecification") or old.get("TimeToLiveSpecification")
    if ttl:
        enabled = _true(ttl.get("Enabled", True)) and bool(props.get("TimeToLiveSpecification"))
        _accepted(dynamodb._update_ttl({"TableName": name, "TimeToLiveSpecification": {
            "Enabled": enabled, "AttributeName": ttl["AttributeName"]}}), "time to live")
    recovery = props.get("PointInTimeRecoverySpecification") or replica.get("PointInTimeRecoverySpecification") or {}
    _accepted(dynamodb._update_continuous_backups({"TableName": name, "PointInTimeRecoverySpecification": {
        "PointInTimeRecoveryEnabled": _true(recovery.get("PointInTimeRecoveryEnabled"))}}), "point-in-time recovery")


# ---- functions

def _whole_function(apply, props_at: int):
    def checked(*arguments, **named):
        props = arguments[props_at]
        code = props.get("Code") or {}
        bucket, key = code.get("S3Bucket"), code.get("S3Key")
        if bucket and key not in (s3._buckets.get(bucket) or {"objects": {}})["objects"]:
            raise ValueError(f"Error occurred while GetObject. S3 Error Code: NoSuchKey. s3://{bucket}/{key}")
        done = apply(*arguments, **named)
        config = lambda_svc._functions[done[0] if isinstance(done, tuple) else done]["config"]
        config.pop("DeadLetterConfig", None)
        config.update({"DeadLetterConfig": props["DeadLetterConfig"]} if props.get("DeadLetterConfig") else {})
        return done

    return checked


# ---- documents

def _content(props: dict) -> str:
    content = props["Content"]
    return content if isinstance(content, str) else json.dumps(content)


def _refusing(action, request: dict) -> None:
    try:
        action(request)
    except Refused as refusal:
        raise ValueError(str(refusal)) from None


def _create_document(logical_id, props, stack_name):
    name = props.get("Name") or provisioners._physical_name(stack_name, logical_id, max_len=128)
    _refusing(ssm_documents.create, {"Name": name, "Content": _content(props),
                                     "DocumentType": props.get("DocumentType", "Command")})
    return name, {}


def _update_document(physical_id, old_props, new_props, stack_name):
    if new_props.get("Name") not in (None, physical_id):
        return _create_document(physical_id, new_props, stack_name)
    if _content(old_props) == _content(new_props):
        return physical_id, {}
    if new_props.get("UpdateMethod", "Replace") == "NewVersion":
        _refusing(ssm_documents.update, {"Name": physical_id, "Content": _content(new_props),
                                         "DocumentVersion": "$LATEST"})
        _refusing(ssm_documents.set_default, {"Name": physical_id, "DocumentVersion": "$LATEST"})
        return physical_id, {}
    if new_props.get("Name"):
        raise ValueError(f"CloudFormation cannot replace {physical_id} while it has a fixed name; "
                         "set UpdateMethod: NewVersion")
    ssm_documents.documents.pop(physical_id, None)
    return _create_document(physical_id, {**new_props, "Name": physical_id}, stack_name)


def _delete_document(physical_id, _props):
    ssm_documents.documents.pop(physical_id, None)


# ---- alarms

def _alarm_record(record):
    """An alarm of metric math watches a metric that nobody writes: it is what TreatMissingData makes of that."""

    def alarm_record(name, props):
        if not props.get("Metrics"):
            return record(name, props)
        periods = [metric["MetricStat"]["Period"] for metric in props["Metrics"] if "MetricStat" in metric]
        unwatched = {"MetricName": "metric-math", "Namespace": "local-cloud", "Period": max(periods, default=60)}
        return record(name, {**{key: value for key, value in props.items() if key != "Metrics"}, **unwatched})

    return alarm_record


def _put_composite(name: str, props: dict):
    _accepted(cloudwatch._put_composite_alarm({}, {**props, "AlarmName": name}, False, is_json=True), f"alarm {name}")
    return name, {"Arn": cloudwatch._composite_alarms[name]["AlarmArn"]}


def _create_composite(logical_id, props, stack_name):
    return _put_composite(props.get("AlarmName") or provisioners._physical_name(stack_name, logical_id, max_len=255), props)


def _update_composite(physical_id, _old_props, new_props, _stack_name):
    return _put_composite(new_props.get("AlarmName") or physical_id, new_props)


def _delete_composite(physical_id, _props):
    cloudwatch._composite_alarms.pop(physical_id, None)
