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
