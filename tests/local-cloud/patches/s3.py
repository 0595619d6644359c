"""S3's checksums as AWS computes and reports them, at a speed that large objects bear.

- CRC32C and CRC64NVME by awscrt instead of pure Python
- an upload that names no algorithm gets CRC64NVME, and PutObject's answer carries the checksum
- a multipart CRC64NVME (or an upload that asks for FULL_OBJECT) is the whole object's, and says so
- a range of a version named by its id is that range (206), not the whole object
- SSE-KMS without a key id takes the account's aws/s3 key
"""

import base64
import re
import threading
import zlib

import awscrt.checksums
from ministack.core.responses import get_account_id, get_region
from ministack.services import s3

from . import replace

DEFAULT_ALGORITHM = "CRC64NVME"
CRCS = {"CRC32": zlib.crc32, "CRC32C": awscrt.checksums.crc32c, "CRC64NVME": awscrt.checksums.crc64nvme}
KMS_KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"

_completing = threading.local()


def install() -> None:
    s3._crc32c = lambda body: awscrt.checksums.crc32c(bytes(body))
    s3._crc64nvme = lambda body: awscrt.checksums.crc64nvme(bytes(body))
    for name, build in {
        "_put_object": _put_object, "_create_multipart_upload": _create_multipart_upload,
        "_complete_multipart_upload": _complete_multipart_upload, "_composite_checksum": _composite_checksum,
        "_get_object": _get_object, "_get_object_attributes": _get_object_attributes, "_resolve_sse_write_headers": _resolve_sse_write_headers,
        "_bucket_default_sse_headers": _bucket_default_sse_headers,
    }.items():
        replace(s3, name, build)


def _names_a_checksum(headers: dict) -> bool:
    return any(name.startswith("x-amz-checksum-") or name == "x-amz-sdk-checksum-algorithm" for name in headers)


def _put_object(put):
    def put_object(bucket_name, key, body, headers):
        if not _names_a_checksum(headers):
            headers = {**headers, "x-amz-sdk-checksum-algorithm": DEFAULT_ALGORITHM}
        status, reply, content = put(bucket_name, key, body, headers)
        if status == 200:
            stored = s3._buckets[bucket_name]["objects"][key].get("checksums") or {}
            reply = {**reply, **{f"x-amz-checksum-{name.lower()}": value for name, value in stored.items()}}
            reply["x-amz-checksum-type"] = "FULL_OBJECT"
        return status, reply, content

    return put_object


# ---- multipart

def _create_multipart_upload(create):
    def create_multipart_upload(bucket_name, key, headers):
        asked = headers.get("x-amz-checksum-type", "").upper()
        status, reply, content = create(bucket_name, key, headers)
        if status != 200:
            return status, reply, content
        upload_id = re.search(r"<UploadId>(.*?)</UploadId>", content.decode())[1]
        upload = s3._multipart_uploads[upload_id]
        named = upload["checksum_algorithm"]
        upload["checksum_algorithm"] = algorithm = named or DEFAULT_ALGORITHM
        if (asked == "FULL_OBJECT" and algorithm not in CRCS) or (
                asked == "COMPOSITE" and algorithm == DEFAULT_ALGORITHM):
            del s3._multipart_uploads[upload_id]
            return s3._error("InvalidRequest", f"The {asked} checksum type cannot be used with the "
                                               f"{algorithm.lower()} checksum algorithm.", 400)
        upload["full_object"] = asked == "FULL_OBJECT" or algorithm == DEFAULT_ALGORITHM
        if named:
            reply = {**reply, "x-amz-checksum-type": "FULL_OBJECT" if upload["full_object"] else "COMPOSITE"}
        return status, reply, content

    return create_multipart_upload


def _composite_checksum(composite):
    """The engine asks for the digest of digests; an upload of FULL_OBJECT gets the whole object's instead."""

    def checksum(algorithm, part_checksums):
        parts = getattr(_completing, "parts", None)
        return composite(algorithm, part_checksums) if parts is None else _over_parts(algorithm, parts)

    return checksum


def _over_parts(algorithm: str, parts: list[bytes]) -> str:
    """The checksum of the parts put together, without putting them together."""
    crc = 0
    for part in parts:
        crc = CRCS[algorithm](part, crc)
    return base64.b64encode(crc.to_bytes(8 if algorithm == "CRC64NVME" else 4, "big")).decode()


def _complete_multipart_upload(complete):
    def complete_multipart_upload(bucket_name, key, body, query_params, headers=None):
        upload_id = s3._qp(query_params, "uploadId")
        upload = s3._multipart_uploads.get(upload_id)
        if not upload or not upload.get("full_object"):
            return complete(bucket_name, key, body, query_params, headers)
        numbers = sorted(int(n) for n in re.findall(rb"<(?:\w+:)?PartNumber>\s*(\d+)\s*<", body))
        _completing.parts = [upload["parts"][n]["body"] for n in numbers if n in upload["parts"]]
        try:
            status, reply, content = complete(bucket_name, key, body, query_params, headers)
        finally:
            _completing.parts = None
        if status != 200:
            return status, reply, content
        current = s3._buckets[bucket_name]["objects"][key]
        for record in [current, *s3._object_versions.get((bucket_name, key), [])[-1:]]:
            record["checksum_type"] = "FULL_OBJECT"
        response = (status, reply, content.replace(b"<ChecksumType>COMPOSITE", b"<ChecksumType>FULL_OBJECT"))
        s3._completed_multipart_uploads[upload_id]["response"] = response
        return response

    return complete_multipart_upload


def _get_object(get):
    def get_object(bucket_name, key, headers, query_params=None):
        status, reply, content = get(bucket_name, key, headers, query_params)
        wanted = headers.get("range", "")
        if status != 200 or not wanted or not s3._qp(query_params or {}, "versionId"):
            return status, reply, content
        found = s3._parse_range(wanted, len(content))
        if found is None:
            return s3._error("InvalidRange", "The requested range is not satisfiable", 416, f"/{bucket_name}/{key}")
        start, end = found
        ranged = {"Content-Range": f"bytes {start}-{end}/{len(content)}", "Content-Length": str(end - start + 1)}
        kept = {name: value for name, value in reply.items() if not name.lower().startswith("x-amz-checksum-")}
        return 206, {**kept, **ranged}, content[start:end + 1]

    return get_object


def _get_object_attributes(get):
    def get_object_attributes(bucket_name, key, *rest):
        status, reply, content = get(bucket_name, key, *rest)
        if b"<ChecksumType>COMPOSITE" in content and b"-" not in re.search(rb"<Checksum\w+>([^<]*)</", content)[1]:
            content = content.replace(b"<ChecksumType>COMPOSITE", b"<ChecksumType>FULL_OBJECT")
        return status, reply, content

    return get_object_attributes


# ---- encryption

def _resolve_sse_write_headers(resolve):
    def resolve_sse(headers, bucket_name):
        if headers.get("x-amz-server-side-encryption") == "aws:kms" and not headers.get(KMS_KEY_HEADER):
            headers = {**headers, KMS_KEY_HEADER: _account_key()}
        return resolve(headers, bucket_name)

    return resolve_sse


def _bucket_default_sse_headers(defaults):
    def default_sse(bucket_name):
        found = defaults(bucket_name)
        if found.get("x-amz-server-side-encryption") == "aws:kms":
            found = {KMS_KEY_HEADER: _account_key(), **found}
        return found

    return default_sse


def _account_key() -> str:
    """The aws/s3 key exists in every account that ever used it; its id is the account's own."""
    return f"arn:aws:kms:{get_region()}:{get_account_id()}:key/aws-s3"
