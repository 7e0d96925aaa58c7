#!/usr/bin/env python3
"""Stands in for Orthanc where its moment is tested: its schema, its pragmas, and a part of its REST API."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

SCHEMA = Path(__file__).with_name("orthanc_index.sql")


class Index:
    """Writes as Orthanc does: the file first, then its row."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        new = not (storage / "index").exists()
        self.database = sqlite3.connect(storage / "index", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "locking_mode=EXCLUSIVE", "foreign_keys=ON"):
            self.database.execute(f"PRAGMA {pragma}")
        for name in ("SignalFileDeleted", "SignalResourceDeleted", "SignalRemainingAncestor"):
            self.database.create_function(name, -1, lambda *_: None)
        if new:
            self.database.executescript(SCHEMA.read_text())

    def resource(self, kind: int, name: str, parent: int | None) -> int:
        found = self.database.execute("SELECT internalId FROM Resources WHERE publicId = ?", (name,)).fetchone()
        if found:
            return int(found[0])
        row = self.database.execute("INSERT INTO Resources VALUES (NULL, ?, ?, ?)", (kind, name, parent))
        return int(row.lastrowid or 0)

    def store(self, data: bytes, study: str = "1.2.3", aet: str = "US1", accession: str = "A1") -> str:
        file, name, stamp = str(uuid.uuid4()), str(uuid.uuid4()), time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self.storage / file[:2] / file[2:4] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.database.execute("BEGIN")
        patient = self.resource(1, f"patient-{study}", None)
        parent = self.resource(2, f"study-{study}", patient)
        series = self.resource(3, f"series-{study}-{aet}", parent)
        instance = self.resource(4, name, series)
        for tag, value in (((32, 13), study), ((8, 80), accession)):
            self.database.execute("REPLACE INTO MainDicomTags VALUES (?, ?, ?, ?)", (parent, *tag, value))
        for row in ((parent, 7, stamp), (series, 3, aet)):
            self.database.execute("REPLACE INTO Metadata VALUES (?, ?, ?)", row)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        attached = (instance, 1, file, len(data), len(data), 1, md5, md5)
        self.database.execute("INSERT INTO AttachedFiles VALUES (?, ?, ?, ?, ?, ?, ?, ?)", attached)
        self.database.execute("INSERT INTO Changes VALUES (NULL, 2, ?, 4, ?)", (instance, stamp))
        self.database.execute("COMMIT")
        return name

    def file(self, name: str) -> Path | None:
        query = "SELECT uuid FROM AttachedFiles JOIN Resources ON id = internalId WHERE publicId = ?"
        found = self.database.execute(query, (name,)).fetchone()
        return self.storage / found[0][:2] / found[0][2:4] / found[0] if found else None

    def delete(self, name: str) -> None:
        path = self.file(name)
        assert path is not None
        self.database.execute("DELETE FROM Resources WHERE publicId = ?", (name,))
        path.unlink()

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        one = self.database.execute
        if path == "/changes":
            last = one("SELECT ifnull(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'Changes'").fetchone()[0]
            if "since" not in query:
                return {"Changes": [], "Done": True, "Last": last}
            rows = one(
                "SELECT seq, publicId, date FROM Changes JOIN Resources USING (internalId) WHERE seq > ? LIMIT ?",
                (query["since"][0], query["limit"][0]),
            ).fetchall()
            found = [{"Seq": a, "ID": b, "Date": c, "ChangeType": "NewInstance"} for a, b, c in rows]
            return {"Changes": found, "Done": len(rows) < int(query["limit"][0]), "Last": rows[-1][0] if rows else 0}
        if path == "/statistics":
            counts = dict(one("SELECT resourceType, COUNT(*) FROM Resources GROUP BY resourceType"))
            kinds = enumerate(("Patients", "Studies", "Series", "Instances"), 1)
            return {f"Count{kind}": counts.get(number, 0) for number, kind in kinds}
        _, kind, name, *rest = path.split("/")
        if kind == "instances":
            query_ = (
                "SELECT p.publicId FROM Resources c JOIN Resources p ON c.parentId = p.internalId WHERE c.publicId = ?"
            )
            parent = one(query_, (name,)).fetchone()
            return {"ParentSeries": parent[0]} if parent else None
        _, study, aet = name.split("-")
        if rest == ["study"]:
            return {"MainDicomTags": {"StudyInstanceUID": study, "AccessionNumber": "A1"}}
        return {"RemoteAET": aet}


def serve(index: Index, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            url = urlparse(self.path)
            if url.path.endswith("/file"):
                path = index.file(url.path.split("/")[2])
                self.reply(200 if path else 404, path.read_bytes() if path else b"")
                return
            answer = index.answer(url.path, parse_qs(f"{url.query}=" if "last" in url.query else url.query))
            self.reply(404 if answer is None else 200, json.dumps(answer).encode())

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            name = index.store(data, self.headers.get("X-Study", "9.9"), self.headers.get("X-AET", "US1"))
            self.reply(200, json.dumps({"ID": name}).encode())

        def do_DELETE(self) -> None:
            index.delete(self.path.split("/")[2])
            self.reply(200, b"{}")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main() -> None:
    if sys.argv[1] == "--version":
        print(os.environ.get("STAND_IN_VERSION", "Orthanc 1.12.7"))
        return
    options = json.loads(Path(sys.argv[1]).read_text())
    serve(Index(Path(options["StorageDirectory"])), options["HttpPort"])


if __name__ == "__main__":
    main()
