"""Whether Orthanc reads its index; run by Docker inside the container, as the user healthcheck."""

import base64
import json
import urllib.request

with open("/etc/orthanc/site/orthanc.json", encoding="utf-8") as file:
    configuration = json.load(file)
password = configuration["RegisteredUsers"]["healthcheck"]
token = base64.b64encode(f"healthcheck:{password}".encode()).decode()
# /system answers from memory; this one does not
url = f"http://127.0.0.1:{configuration['HttpPort']}/changes?last"
request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"})
with urllib.request.urlopen(request, timeout=8) as answer:
    json.load(answer)
