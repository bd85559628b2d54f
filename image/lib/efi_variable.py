#!/usr/bin/env python3
"""Makes NAME.auth, as SetVariable() takes it, for PK, KEK or db with one certificate, signed by that certificate's key: an
EFI_VARIABLE_AUTHENTICATION_2 before an EFI_SIGNATURE_LIST (UEFI specification 8.2 and 32.4).

Not by sbvarsign: what that of sbsigntool 0.9.4 signs is not what it writes, which firmware notices for PK alone. The same
inputs give the same bytes: the time is SOURCE_DATE_EPOCH, the signature RSA's (PKCS #1 v1.5) without attributes.

usage: efi_variable.py NAME CERT.pem KEY.pem OUTPUT
"""
import datetime
import hashlib
import os
import ssl
import struct
import subprocess
import sys
import uuid

GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
CERT_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_TYPE_PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
# Non-volatile, boot services, runtime, authenticated by time.
ATTRIBUTES = 0x27


def signature_list(certificate):
    """Its owner is told by the certificate, so that it stays the same."""
    owner = uuid.UUID(bytes=hashlib.sha256(certificate).digest()[:16], version=4)
    signature = owner.bytes_le + certificate
    return CERT_X509.bytes_le + struct.pack("<III", 28 + len(signature), 0, len(signature)) + signature


def unwrapped(content_info):
    """The SignedData of a PKCS #7 ContentInfo: what older firmware wants."""
    def skip_header(at):
        first = content_info[at + 1]
        return at + 2 + (first & 0x7F if first & 0x80 else 0)

    object_id = skip_header(0)
    explicit = skip_header(object_id) + content_info[object_id + 1]
    return content_info[skip_header(explicit):]


def main(name, certificate_file, key, output):
    with open(certificate_file, encoding="ascii") as file:
        payload = signature_list(ssl.PEM_cert_to_DER_cert(file.read()))
    vendor = SECURITY_DATABASE if name == "db" else GLOBAL
    when = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    time = struct.pack("<HBBBBBBIhBB", when.year, when.month, when.day, when.hour, when.minute, when.second, 0, 0, 0, 0, 0)
    signed = name.encode("utf-16-le") + vendor.bytes_le + struct.pack("<I", ATTRIBUTES) + time + payload
    sign = ["openssl", "smime", "-sign", "-binary", "-noattr", "-md", "sha256", "-outform", "DER",
            "-signer", certificate_file, "-inkey", key]
    signature = unwrapped(subprocess.run(sign, input=signed, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    head = struct.pack("<IHH", 24 + len(signature), 0x0200, 0x0EF1) + CERT_TYPE_PKCS7.bytes_le
    with open(output, "wb") as file:
        file.write(time + head + signature + payload)


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] not in ("PK", "KEK", "db"):
        sys.exit(__doc__.strip().splitlines()[-1])
    main(*sys.argv[1:])
