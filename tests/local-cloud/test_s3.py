"""S3: checksums, as AWS reports them."""

import base64
import os
import socket
import subprocess
import sys
import time
import zlib

import awscrt.checksums
import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from conftest import LAUNCHER, Cloud, eventually

PART = 5 * 1024 * 1024


@pytest.fixture
def s3(cloud: Cloud):
    client = cloud.client("s3", request_checksum_calculation="when_required", s3={"addressing_style": "path"})
    client.create_bucket(Bucket="data", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return client


def crc64(data: bytes) -> str:
    return base64.b64encode(awscrt.checksums.crc64nvme(data).to_bytes(8, "big")).decode()


def test_known_values():
    assert awscrt.checksums.crc64nvme(b"123456789") == 0xAE8B14860A799888
    assert awscrt.checksums.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("algorithm", [None, "CRC64NVME", "CRC32C", "SHA256"])
def test_put_answers_with_the_checksum(s3, algorithm):
    put = s3.put_object(Bucket="data", Key="k", Body=b"123456789", **({"ChecksumAlgorithm": algorithm} if algorithm else {}))
    name = f"Checksum{algorithm or 'CRC64NVME'}"
    head = s3.head_object(Bucket="data", Key="k", ChecksumMode="ENABLED")
    assert put[name] == head[name] and put["ChecksumType"] == head["ChecksumType"] == "FULL_OBJECT"
    if not algorithm:
        assert put[name] == crc64(b"123456789")


def test_wrong_checksum_is_refused(s3):
    with pytest.raises(ClientError, match="BadDigest"):
        s3.put_object(Bucket="data", Key="k", Body=b"data", ChecksumCRC64NVME=crc64(b"other"))


def multipart(s3, bodies: list[bytes], complete: dict | None = None, **create):
    upload = s3.create_multipart_upload(Bucket="data", Key="k", **create)
    parts = []
    for number, body in enumerate(bodies, 1):
        part = s3.upload_part(Bucket="data", Key="k", UploadId=upload["UploadId"], PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    done = s3.complete_multipart_upload(Bucket="data", Key="k", UploadId=upload["UploadId"], MultipartUpload={"Parts": parts},
                                        **(complete or {}))
    return upload, done


@pytest.mark.parametrize("create", [{}, {"ChecksumAlgorithm": "CRC64NVME"},
                                    {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}])
@pytest.mark.parametrize("versioned", [False, True])
def test_multipart_crc64_is_the_whole_objects(s3, create, versioned):
    if versioned:
        s3.put_bucket_versioning(Bucket="data", VersioningConfiguration={"Status": "Enabled"})
    bodies = [os.urandom(PART), os.urandom(PART), os.urandom(77)]
    upload, done = multipart(s3, bodies, **create)
    whole = crc64(b"".join(bodies))
    head = s3.head_object(Bucket="data", Key="k", ChecksumMode="ENABLED",
                          **({"VersionId": done["VersionId"]} if versioned else {}))
    attributes = s3.get_object_attributes(Bucket="data", Key="k", ObjectAttributes=["Checksum"])["Checksum"]
    for found in (done, head, attributes):
        assert (found["ChecksumCRC64NVME"], found["ChecksumType"]) == (whole, "FULL_OBJECT")
    if create:
        assert upload["ChecksumType"] == "FULL_OBJECT"


def test_multipart_completion_checks_the_whole_objects_value(s3):
    bodies = [os.urandom(PART), b"end"]
    with pytest.raises(ClientError, match="BadDigest"):
        multipart(s3, bodies, {"ChecksumCRC64NVME": crc64(b"other")}, ChecksumAlgorithm="CRC64NVME")
    multipart(s3, bodies, {"ChecksumCRC64NVME": crc64(b"".join(bodies))}, ChecksumAlgorithm="CRC64NVME")


@pytest.mark.parametrize("algorithm, crc", [("CRC32", zlib.crc32), ("CRC32C", awscrt.checksums.crc32c)])
def test_other_crcs_are_the_whole_objects_when_asked(s3, algorithm, crc):
    bodies = [os.urandom(PART), b"end"]
    _, done = multipart(s3, bodies, ChecksumAlgorithm=algorithm, ChecksumType="FULL_OBJECT")
    whole = base64.b64encode(crc(b"".join(bodies)).to_bytes(4, "big")).decode()
    assert (done[f"Checksum{algorithm}"], done["ChecksumType"]) == (whole, "FULL_OBJECT")


def test_other_algorithms_stay_composite(s3):
    _, done = multipart(s3, [os.urandom(PART), b"end"], ChecksumAlgorithm="SHA256")
    assert done["ChecksumSHA256"].endswith("-2") and done["ChecksumType"] == "COMPOSITE"
    with pytest.raises(ClientError, match="cannot be used"):
        s3.create_multipart_upload(Bucket="data", Key="k", ChecksumAlgorithm="SHA256", ChecksumType="FULL_OBJECT")


def test_crcs_are_fast(s3):
    body, began = os.urandom(64 * 1024 * 1024), time.process_time()
    s3.put_object(Bucket="data", Key="k", Body=body, ChecksumCRC64NVME=crc64(body))
    started = time.monotonic()
    s3.put_object(Bucket="data", Key="k", Body=body, ChecksumAlgorithm="CRC64NVME")
    assert time.monotonic() - started < 15 and time.process_time() - began < 15  # pure Python needs 22 s


def test_kms_without_a_key_takes_the_accounts(s3):
    put = s3.put_object(Bucket="data", Key="k", Body=b"x", ServerSideEncryption="aws:kms")
    assert put["ServerSideEncryption"] == "aws:kms" and put["SSEKMSKeyId"].startswith("arn:aws:kms:eu-west-1:")
    own = s3.put_object(Bucket="data", Key="k", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="arn:own")
    assert own["SSEKMSKeyId"] == "arn:own"


# ---- faults

def retrying(cloud: Cloud):
    return cloud.client("s3", request_checksum_calculation="when_required", s3={"addressing_style": "path"},
                        retries={"total_max_attempts": 3, "mode": "standard"})


def hits(cloud: Cloud) -> list[int]:
    return [fault["hits"] for fault in cloud.control("GET", "faults")]


@pytest.mark.parametrize("error, status", [("SlowDown", 503), ("InternalError", 500)])
def test_a_failing_call_did_nothing_and_an_sdk_tries_again(cloud, s3, error, status):
    cloud.fault("s3:PutObject", "fail", match={"bucket": "data", "key": "a/*"}, error=error, status=status, times=1)
    s3.put_object(Bucket="data", Key="b/1", Body=b"x")
    with pytest.raises(ClientError, match=error):
        s3.put_object(Bucket="data", Key="a/1", Body=b"x")
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket="data", Key="a/1")
    cloud.fault("s3:PutObject", "fail", match={"key": "a/2"}, error=error, status=status, times=1)
    retrying(cloud).put_object(Bucket="data", Key="a/2", Body=b"x")
    assert hits(cloud) == [1, 1]


def test_a_lost_reply_of_a_conditional_write_is_met_by_its_own_object(cloud, s3):
    cloud.fault("s3:PutObject", "lose-reply", match={"method": "PUT", "key": "k"}, times=1)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        retrying(cloud).put_object(Bucket="data", Key="k", Body=b"mine", IfNoneMatch="*")
    assert s3.get_object(Bucket="data", Key="k")["Body"].read() == b"mine" and hits(cloud) == [1]


def test_a_call_is_doubled_or_late_and_others_pass(cloud, s3):
    s3.put_bucket_versioning(Bucket="data", VersioningConfiguration={"Status": "Enabled"})
    cloud.fault("s3:PutObject", "double", times=1)
    cloud.fault("s3:GetObject", "delay-reply", seconds=0.4, times=1)
    s3.put_object(Bucket="data", Key="k", Body=b"x")
    assert len(s3.list_object_versions(Bucket="data")["Versions"]) == 2
    began = time.monotonic()
    s3.head_object(Bucket="data", Key="k")
    s3.get_object(Bucket="data", Key="k")
    assert time.monotonic() - began > 0.4 and hits(cloud) == [1, 1]


def test_every_call_has_its_apis_name(cloud, s3):
    """Each is refused by the name that its own API has, and by no other's: so no fault strikes the wrong call."""
    s3.put_object(Bucket="data", Key="k", Body=b"x")
    upload = s3.create_multipart_upload(Bucket="data", Key="k")["UploadId"]
    of = {"Bucket": "data", "Key": "k"}
    parts = {"Parts": [{"PartNumber": 1, "ETag": "x"}]}
    calls = {
        "GetObject": of, "HeadObject": of, "PutObject": of, "DeleteObject": of, "GetObjectAttributes": {**of, "ObjectAttributes": ["ETag"]},
        "GetObjectRetention": of, "PutObjectRetention": {**of, "Retention": {"Mode": "GOVERNANCE"}}, "CreateMultipartUpload": of,
        "GetObjectTagging": of, "PutObjectTagging": {**of, "Tagging": {"TagSet": []}}, "GetObjectLegalHold": of,
        "PutObjectLegalHold": {**of, "LegalHold": {"Status": "OFF"}},
        "UploadPart": {**of, "UploadId": upload, "PartNumber": 1}, "ListParts": {**of, "UploadId": upload},
        "AbortMultipartUpload": {**of, "UploadId": upload}, "CompleteMultipartUpload": {**of, "UploadId": upload, "MultipartUpload": parts},
        "ListObjectsV2": {"Bucket": "data"}, "ListObjectVersions": {"Bucket": "data"}, "ListMultipartUploads": {"Bucket": "data"},
        "DeleteObjects": {"Bucket": "data", "Delete": {"Objects": [{"Key": "k"}]}}, "HeadBucket": {"Bucket": "data"},
    }
    for name, arguments in calls.items():
        cloud.control("DELETE", "faults")
        cloud.fault(f"s3:{name}", "fail", match={"bucket": "data"}, error="SlowDown", status=503)
        method = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name.replace("V2", "_v2"))[1:]
        with pytest.raises(ClientError, match="SlowDown|503"):
            getattr(s3, method)(**arguments)
        assert hits(cloud) == [1], name


def test_some_may_pass_before_a_fault_strikes_and_a_star_means_any_call(cloud, s3):
    cloud.fault("s3:*", "fail", match={"key": "k*"}, error="SlowDown", status=503, skip=2, times=1)
    s3.put_object(Bucket="data", Key="k1", Body=b"x")
    s3.head_object(Bucket="data", Key="k1")
    with pytest.raises(ClientError, match="SlowDown"):
        s3.get_object(Bucket="data", Key="k1")
    s3.get_object(Bucket="data", Key="k1")


def test_s3_alone_for_tests_that_need_nothing_else(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, str(LAUNCHER.with_name("s3.py"))], cwd=tmp_path, env={
        **os.environ, "GATEWAY_PORT": port, "BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1", "TMPDIR": str(tmp_path),
        "MINISTACK_REGION": "eu-west-1", "SFTP_ENABLED": "0", "IOT_MTLS_ENABLED": "0", "LOG_LEVEL": "WARNING"})
    try:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="eu-west-1",
                              aws_access_key_id="test", aws_secret_access_key="test")

        def up():
            try:
                return client.create_bucket(Bucket="data", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
            except EndpointConnectionError:
                return None

        eventually(up)
        assert client.put_object(Bucket="data", Key="k", Body=b"123456789", ChecksumAlgorithm="CRC64NVME")["ChecksumType"] == "FULL_OBJECT"
    finally:
        process.terminate()
        process.wait(15)
