#!/bin/sh
# What a careful person writes instead of this collection, for one machine with Debian: in outline the same end state as
# `clinicops.orthanc.deploy` with the example inventory. Orthanc with DICOMweb and worklists, users with roles, listed
# devices only, TLS, firewall, limits of the service, a backup each night, and a check that it answers.
# It is shorter than the collection in what it does not do: it does not check settings, repair, restore, renew a
# certificate, watch the disk, warn anybody, or prove that a stranger is refused. For bench/deploy.py.
set -eu
export DEBIAN_FRONTEND=noninteractive
HOST=pacs.clinic.example
PASSWORD=${PASSWORD:?}

# the firewall first: nothing that is installed below may be reached before it is configured
apt-get install -qq -y --no-install-recommends nftables
cat > /etc/nftables.conf <<'EOF'
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "lo" accept
    tcp dport 4242 ip saddr { 198.51.100.21, 198.51.100.22 } accept
    tcp dport 443 ip saddr { 198.51.100.64/26, 198.51.100.90 } accept
    tcp dport { 443, 4242, 8042 } drop
  }
}
EOF
systemctl enable --now nftables
nft -f /etc/nftables.conf

apt-get install -qq -y --no-install-recommends orthanc orthanc-dicomweb orthanc-python nginx restic cron openssh-client \
  ca-certificates systemd-timesyncd dcmtk distro-info-data openssl curl python3-pydicom
systemctl stop orthanc

# Orthanc
mkdir -p /var/lib/orthanc/tmp /var/lib/orthanc/db
install -d -o orthanc -g orthanc -m 750 /var/lib/orthanc/worklists /var/lib/orthanc/tmp /var/lib/orthanc/db
rm -f /etc/orthanc/*.json
cat > /etc/orthanc/orthanc.json <<EOF
{
  "Name": "Clinic Orthanc", "StorageDirectory": "/var/lib/orthanc/db", "IndexDirectory": "/var/lib/orthanc/db",
  "TemporaryDirectory": "/var/lib/orthanc/tmp", "RemoteAccessAllowed": false, "AuthenticationEnabled": true,
  "RegisteredUsers": {"it": "$PASSWORD", "viewer": "$PASSWORD", "gateway": "$PASSWORD"},
  "HttpPort": 8042, "DicomAet": "ORTHANC", "DicomPort": 4242, "DicomCheckCalledAet": true,
  "DicomAlwaysAllowEcho": false, "DicomAlwaysAllowStore": false, "DicomCheckModalityHost": true,
  "DicomModalities": {
    "us1": {"AET": "US1", "Host": "198.51.100.21", "Port": 104, "AllowEcho": true, "AllowStore": true,
            "AllowFind": false, "AllowMove": false, "AllowGet": false, "AllowFindWorklist": true},
    "us2": {"AET": "US2", "Host": "198.51.100.22", "Port": 104, "AllowEcho": true, "AllowStore": true,
            "AllowFind": false, "AllowMove": false, "AllowGet": false, "AllowFindWorklist": true}
  },
  "DicomWeb": {"Enable": true, "Root": "/dicom-web/"},
  "Worklists": {"Enable": true, "Database": "/var/lib/orthanc/worklists"},
  "Plugins": ["/usr/share/orthanc/plugins"], "LuaScripts": ["/etc/orthanc/roles.lua"],
  "ExecuteLuaEnabled": false, "RestApiWriteToFileSystemEnabled": false, "WebDavEnabled": false,
  "SyncStorageArea": true, "StorageCompression": false, "OverwriteInstances": false
}
EOF
cat > /etc/orthanc/roles.lua <<'EOF'
local writers, admins = { gateway = true }, { it = true }
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  if admins[username] then return true end
  if method == 'GET' then return uri:match('^/dicom%-web/studies') ~= nil or uri:match('^/dicom%-web/info') ~= nil end
  return writers[username] == true and method == 'POST' and uri:match('^/dicom%-web/studies') ~= nil
end
EOF
chown -R root:orthanc /etc/orthanc && chmod 640 /etc/orthanc/orthanc.json
mkdir -p /etc/systemd/system/orthanc.service.d
cat > /etc/systemd/system/orthanc.service.d/own.conf <<'EOF'
[Service]
Environment=TCP_NODELAY=1
LimitNOFILE=65536
Restart=on-failure
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=yes
PrivateTmp=yes
EOF

# nginx
mkdir -p /etc/nginx/own
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 397 -subj "/CN=$HOST" \
  -addext "subjectAltName=DNS:$HOST" -keyout /etc/nginx/own/key.pem -out /etc/nginx/own/cert.pem 2>/dev/null
chmod 600 /etc/nginx/own/key.pem
rm -f /etc/nginx/sites-enabled/default
cat > /etc/nginx/conf.d/own.conf <<EOF
server {
  listen 443 ssl;
  server_name $HOST;
  ssl_certificate /etc/nginx/own/cert.pem;
  ssl_certificate_key /etc/nginx/own/key.pem;
  ssl_protocols TLSv1.2 TLSv1.3;
  client_max_body_size 0;
  location /dicom-web/ {
    proxy_pass http://127.0.0.1:8042;
    proxy_request_buffering off;
    proxy_buffering off;
    proxy_set_header Host \$host;
    proxy_set_header Forwarded "host=\$host;proto=https";
    proxy_set_header X-Forwarded-Host \$host;
    proxy_set_header X-Forwarded-Proto https;
  }
}
EOF
nginx -t 2>/dev/null

# a backup each night, and a check each five minutes
install -d -m 700 /var/backups/orthanc
printf '%s\n' "$PASSWORD-repository" > /root/restic-password && chmod 600 /root/restic-password
export RESTIC_REPOSITORY=/var/backups/orthanc RESTIC_PASSWORD_FILE=/root/restic-password
restic cat config >/dev/null 2>&1 || restic init >/dev/null
cat > /usr/local/sbin/backup-orthanc <<'EOF'
#!/bin/sh
set -eu
export RESTIC_REPOSITORY=/var/backups/orthanc RESTIC_PASSWORD_FILE=/root/restic-password
systemctl stop orthanc
trap 'systemctl start orthanc' EXIT
restic backup --quiet /var/lib/orthanc/db /etc/orthanc
restic forget --quiet --prune --keep-daily 14 --keep-monthly 12
EOF
chmod 755 /usr/local/sbin/backup-orthanc
cat > /etc/cron.d/orthanc <<'EOF'
30 1 * * * root /usr/local/sbin/backup-orthanc
*/5 * * * * root systemctl is-active --quiet orthanc || logger -p daemon.err "Orthanc is not running"
EOF

systemctl daemon-reload
systemctl enable --now orthanc nginx cron
systemctl restart orthanc nginx

# does it answer, and refuse?
curl -fsS -o /dev/null --retry 30 --retry-delay 1 --retry-all-errors -u "viewer:$PASSWORD" \
  --cacert /etc/nginx/own/cert.pem --resolve "$HOST:443:127.0.0.1" "https://$HOST/dicom-web/studies?limit=1"
test "$(curl -sS -o /dev/null -w '%{http_code}' -u viewer:wrong --cacert /etc/nginx/own/cert.pem \
  --resolve "$HOST:443:127.0.0.1" "https://$HOST/dicom-web/studies")" = 401
echo done
