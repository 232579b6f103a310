"""Runs the reference (audit_logger.py, untouched) at the work of the bench. Prints its result as JSON.

    python3 run.py <audit_logger.py> <task, as JSON>
"""

import importlib.util
import json
import logging
import os
import sys
import threading
import time
import types


class QThread:
    """As much of PySide6's QThread as the reference uses."""

    def start(self):
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()

    def wait(self, milliseconds):
        self._thread.join(milliseconds / 1000)


core = types.ModuleType("PySide6.QtCore")
core.QThread = QThread
sys.modules["PySide6"] = types.ModuleType("PySide6")
sys.modules["PySide6.QtCore"] = core

source, argument = sys.argv[1:]
spec = importlib.util.spec_from_file_location("audit_logger", source)
audit_logger = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit_logger)

logging.disable(logging.CRITICAL)

EVENT = dict(
    user_name="li.wei",
    device_name="studio-3",
    prompt="a red fox in the snow at night, oil on canvas, warm light from a window behind it",
    result_path="out/2026/01/31/0001.png",
    status="success",
    error_message=None,
    model="gemini-2.5-flash-image",
    duration_ms=1840,
    finish_reason="STOP",
)


def append(task, config):
    """Threads that append without pause, the worker on."""
    queue_path = os.path.join(task["directory"], "reference.ndjson")
    log = audit_logger.init_audit_logger(config, queue_path, task["directory"])
    latencies = []
    started_at = time.perf_counter()
    ends_at = started_at + task["seconds"]

    def caller():
        at = time.perf_counter()
        while at < ends_at:
            log.log_use(**EVENT)
            before, at = at, time.perf_counter()
            latencies.append(at - before)

    threads = [threading.Thread(target=caller) for _ in range(task["callers"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started_at
    latencies.sort()
    p99 = latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]
    return {"eventsPerSecond": len(latencies) / seconds, "p99Micros": p99 * 1e6}


def deliver(task, config):
    """One drain of a queue file."""
    worker = audit_logger._UploadWorker(config, task["file"], threading.Lock())
    started_at = time.perf_counter()
    sent, unsent = worker._drain_once()
    millis = (time.perf_counter() - started_at) * 1000
    if unsent:
        raise SystemExit(f"{unsent} events were not delivered")
    return {"events": sent, "millis": millis}


task = json.loads(argument)
config = {**task["database"], "user": "root", "password": ""}
print(json.dumps({"append": append, "deliver": deliver}[task["task"]](task, config)), flush=True)
# without the last drain
os._exit(0)
