"""What `helm test` runs: is every kind served, and is there an operator that could lead?"""

import json
import os
import ssl
import sys
import urllib.request

ACCOUNT = os.environ["ACCOUNT"]
KINDS = set(os.environ["KINDS"].split(","))

with open(f"{ACCOUNT}/token") as file:
    token = file.read()
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
request = urllib.request.Request(
    f"https://{host}:{port}/apis/modelfleet.dev/v1alpha1", headers={"Authorization": f"Bearer {token}"}
)
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")),
)
try:
    with opener.open(request, timeout=10) as answer:
        served = {each["name"] for each in json.load(answer)["resources"]}
except OSError as error:
    sys.exit(f"the kinds of modelfleet.dev/v1alpha1 are not served: {error}")
if KINDS - served:
    sys.exit(f"CRDs missing: {', '.join(sorted(KINDS - served))}")
print("CRDs: all served")
try:
    with opener.open(f"{os.environ['OPERATOR']}/readyz", timeout=10) as answer:
        print("operator:", answer.read().decode())
except urllib.error.HTTPError as error:
    sys.exit(f"operator: {error.read().decode()}")
except OSError as error:
    sys.exit(f"operator: {os.environ['OPERATOR']} does not answer: {error}")
