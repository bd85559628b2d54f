# Prints the members of etcd as the member at an address tells its peers, as JSON.
# Runs on a server, with the certificate that k3s keeps there for its own etcd.
#
# usage: python3 -c SCRIPT ADDRESS
import ssl
import sys
import urllib.request

tls = "/var/lib/rancher/k3s/server/tls/etcd"
context = ssl.create_default_context(cafile=f"{tls}/peer-ca.crt")
# Authorities made by Kubernetes' own library lack an extension that strict verification wants.
context.verify_flags &= ~ssl.VERIFY_X509_STRICT
context.load_cert_chain(f"{tls}/peer-server-client.crt", f"{tls}/peer-server-client.key")
with urllib.request.urlopen(f"https://{sys.argv[1]}:2380/members", context=context, timeout=10) as answer:
    print(answer.read().decode())
