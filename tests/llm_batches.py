"""The batch interface of :class:`tests.llm_server.LLMServer`: files, batches, output and error files."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any


class Batches:
    """Batches that end after *looks* looks at them; *status* is how they end."""

    def __init__(self, looks: int = 2, status: str = "completed", unanswered: int = 0) -> None:
        self.looks, self.status, self.unanswered = looks, status, unanswered
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()

    def post(self, path: str, body: bytes, kind: str) -> dict[str, Any]:
        """Answer to a file or a batch that is sent."""
        with self.lock:
            if path.endswith("/files"):
                boundary = re.search(r"boundary=([^;]+)", kind)
                assert boundary is not None
                parts = body.split(b"--" + boundary[1].strip('"').encode())
                content = next(p.split(b"\r\n\r\n", 1)[1] for p in parts if b'filename="' in p)
                name = f"file-{len(self.files)}"
                self.files[name] = content.rstrip(b"\r\n")
                return self._file(name)
            value = json.loads(body)
            name = f"batch_{len(self.batches)}"
            self.batches[name] = {
                "id": name,
                "object": "batch",
                "endpoint": value["endpoint"],
                "input_file_id": value["input_file_id"],
                "completion_window": value["completion_window"],
                "metadata": value.get("metadata"),
                "status": "validating",
                "created_at": 1,
                "looks": 0,
            }
            return self._shown(name)

    def get(self, path: str, answer: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]) -> bytes:
        """Answer to a look at a batch, at the list of batches or at a file."""
        with self.lock:
            if (found := re.search(r"/files/([^/]+)/content", path)) is not None:
                return self.files[found[1]]
            if (found := re.search(r"/batches/([^/?]+)", path)) is not None:
                self._advance(self.batches[found[1]], answer)
                return json.dumps(self._shown(found[1])).encode()
            shown = [self._shown(name) for name in self.batches]
            return json.dumps({"object": "list", "data": shown, "has_more": False}).encode()

    def _advance(self, batch: dict[str, Any], answer: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]) -> None:
        batch["looks"] += 1
        if batch["looks"] < self.looks or batch["status"] == self.status:
            batch["status"] = batch["status"] if batch["status"] == self.status else "in_progress"
            return
        batch["status"] = self.status
        if self.status == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "x", "message": "line 1: not good", "line": 1}]}
            return
        good, bad = [], []
        lines = self.files[batch["input_file_id"]].decode().splitlines()
        for line in lines[: len(lines) - self.unanswered]:
            value = json.loads(line)
            status, body = answer(value["body"])
            row = {"id": "r", "custom_id": value["custom_id"], "response": {"status_code": status, "body": body}}
            (good if status == 200 else bad).append(json.dumps({**row, "error": None}))
        for rows, kind in ((good, "output"), (bad, "error")):
            if rows:
                name = f"file-{len(self.files)}"
                self.files[name] = "\n".join(rows).encode()
                batch[f"{kind}_file_id"] = name
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}

    def _file(self, name: str) -> dict[str, Any]:
        size = len(self.files[name])
        about = {"id": name, "object": "file", "bytes": size, "created_at": 1, "filename": "x.jsonl"}
        return {**about, "purpose": "batch", "status": "processed"}

    def _shown(self, name: str) -> dict[str, Any]:
        return {key: value for key, value in self.batches[name].items() if key != "looks"}
