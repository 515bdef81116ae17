"""Nothing waits for what is dead: every call that may wait has a time limit, or a reason to need none.

And nothing waits, or measures a duration, by a clock that can be set.
"""

import ast

import pytest
from house import shape

WAITING_METHODS = frozenset(
    ["result", "exception", "join", "wait", "acquire", "recv", "recv_bytes", "communicate", "get", "accept"]
)
"""Methods that wait without limit, unless they get a time."""
WAITING_NAMES = frozenset(
    [
        "as_completed",
        "flock",
        "lockf",
        "waitpid",
        "check_call",
        "check_output",
        "input",
        "shutdown",
        "synchronize",
        "wait_for_lock",
        "all_reduce",
        "all_gather",
        "broadcast",
        "barrier",
        "init_process_group",
        "destroy_process_group",
        "DistributedDataParallel",
        "ThreadPoolExecutor",
        "ProcessPoolExecutor",
        "DataLoader",
        "Pool",
        "Thread",
        "urlopen",
        "create_connection",
        "Queue",
        "SimpleQueue",
        "JoinableQueue",
        "Pipe",
        "Condition",
        "Semaphore",
        "Event",
        "Barrier",
        "Lock",
        "RLock",
    ]
)
"""Functions that wait without limit, and classes for whose sake something waits somewhere."""
WAITING_CALLS = frozenset(["subprocess.run", "subprocess.call", "os.read", "os.wait", "select.select"])
LIMITS = frozenset(["timeout", "longest_seconds"])

FINISHED = "the future is finished"
OWN_THREAD = "a thread of this process ends with a result or an error, which the future passes on"
OWN_LOCK = "threads of this process hold it for a moment, in a `with` block"
GROUP = "ends after TIMEOUT; where a process dies, the queue or torchrun ends the others, and each ends with its parent"
DEVICE = "a device that fails raises an error"
ALLOWED = {
    "autoseg.places.case_worker": {"threading.Lock": "held for one case, which the other threads of a worker wait for"},
    "autoseg.processes.case_pool": {
        "ProcessPoolExecutor": "a worker that dies breaks the pool, and `_iterate_finished` looks for those that "
        "die unnoticed",
        "future.exception": FINISHED,
        "future.result": FINISHED,
    },
    "autoseg.processes.fold_lock": {"fcntl.flock": "unlocks"},
    "autoseg.processes.overlap": {
        "ThreadPoolExecutor": OWN_THREAD,
        "future.exception": OWN_THREAD,
        "future.result": OWN_THREAD,
        "current.exception": OWN_THREAD,
        "reader.shutdown": OWN_THREAD,
    },
    "autoseg.processes.parent_watch": {
        "parent.join": "waits for the death of the parent, in a thread that nothing waits for",
        "os.read": "waits for the death of the parent, in a thread that nothing waits for",
    },
    "autoseg.runtime.cpu_threads": {"threading.RLock": OWN_LOCK},
    "autoseg.runtime.distributed": {
        "dist.all_reduce": GROUP,
        "dist.barrier": GROUP,
        "dist.broadcast": GROUP,
        "dist.destroy_process_group": GROUP,
        "DistributedDataParallel": GROUP,
    },
    "autoseg.networks.throughput": {"torch.cuda.synchronize": DEVICE},
    "autoseg.runtime.device": {"torch.cuda.synchronize": DEVICE},
    "autoseg.runtime.streams": {"arrived.synchronize": DEVICE, "beside.synchronize": DEVICE},
    "autoseg.training.calibration": {"torch.cuda.synchronize": DEVICE},
    "autoseg.training.data.batches": {
        "DataLoader": "torch looks every few seconds whether its workers live; one whose thread fails exits"
    },
    "autoseg.training.data.device_batches": {
        "ThreadPoolExecutor": OWN_THREAD,
        "ahead.popleft().result": OWN_THREAD,
        "pool.shutdown": OWN_THREAD,
    },
    "autoseg.training.data.case_store": {"ThreadPoolExecutor": OWN_THREAD},
    "autoseg.training.data.held_cases": {"ThreadPoolExecutor": OWN_THREAD},
    "autoseg.processes.library_output": {"threading.Lock": OWN_LOCK},
    "autoseg.remote.local_files": {
        "ThreadPoolExecutor": OWN_THREAD,
        "pool.shutdown": OWN_THREAD,
        "waiting.popleft().result": OWN_THREAD,
    },
    "autoseg.remote.session": {"threading.Event": "looked at for some seconds each time"},
    "autoseg.remote.store": {"threading.RLock": "held for one transfer, whose tries are limited"},
    "autoseg.remote.syncing": {"ThreadPoolExecutor": OWN_THREAD, "future.result": OWN_THREAD},
    "autoseg.volume_io.formats.pictures": {"threading.Lock": OWN_LOCK},
    "autoseg.volume_io.formats.reader_process": {
        "threading.Lock": "held for one answer of the child, within its time",
        "SimpleQueue": "the child waits for requests, and exits when the parent has died",
        "requests.get": "the child waits for requests, and exits when the parent has died",
    },
    "autoseg.workflows.cascade": {
        "wait_for_lock": "the system releases the lock of a dead process, and a live one may predict for hours"
    },
    "autoseg.workflows.evaluate.validation_cost": {"torch.cuda.synchronize": DEVICE},
}
"""Reasons by module and call."""


def waits(call: ast.Call) -> bool:
    """Whether a call may wait without limit."""
    function, keywords = call.func, {keyword.arg: keyword.value for keyword in call.keywords}
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if LIMITS & set(keywords) or "LOCK_NB" in ast.unparse(call):
        return False
    for keyword in ("wait", "block", "blocking", "daemon"):
        value = keywords.get(keyword)
        if isinstance(value, ast.Constant) and value.value is (keyword == "daemon"):
            return False
    if isinstance(function, ast.Attribute) and name in WAITING_METHODS:
        return not call.args or name == "communicate"
    return name in WAITING_NAMES or ast.unparse(function) in WAITING_CALLS


def find_waits(tree: ast.AST) -> set[str]:
    """The calls that may wait without limit, without their arguments."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {ast.unparse(call.func) for call in calls if waits(call)}


def test_every_wait_has_an_end_or_a_reason_to_need_none() -> None:
    found = {shape.name_module(path): find_waits(shape.parse(path)) for path in shape.list_sources()}
    assert {module: calls for module, calls in found.items() if calls} == {
        module: set(reasons) for module, reasons in ALLOWED.items()
    }


@pytest.mark.parametrize(
    ("code", "is_wait"),
    [
        ("queue.get()", True),
        ("queue.get(timeout=3)", False),
        ("queue.get(block=False)", False),
        ("values.get(key)", False),
        ("', '.join(names)", False),
        ("process.join()", True),
        ("process.join(5.0)", False),
        ("process.communicate(b'')", True),
        ("process.communicate(timeout=5)", False),
        ("subprocess.run(command)", True),
        ("subprocess.run(command, timeout=60)", False),
        ("as_completed(futures)", True),
        ("fcntl.flock(file, fcntl.LOCK_EX)", True),
        ("fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", False),
        ("threading.Thread(target=work)", True),
        ("threading.Thread(target=work, daemon=True)", False),
        ("lock.acquire()", True),
        ("lock.acquire(blocking=False)", False),
        ("pool.shutdown()", True),
        ("pool.shutdown(wait=False)", False),
        ("multiprocessing.Queue()", True),
    ],
)
def test_waits_are_told_from_other_calls(code: str, *, is_wait: bool) -> None:
    assert bool(find_waits(ast.parse(code))) is is_wait


CLOCKS_THAT_JUMP = ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today")


COMPARED_WITH_FILES = {
    "autoseg.files.checksums": "compared with times of files; a jump costs reading a file once more",
    "autoseg.files.temporary_files": "compared with times of files, to a day, where another host wrote them",
    "autoseg.remote.local_files": "compared with times of files; a jump removes others from the cache first",
    "autoseg.report.page": "a page says when it was written",
    "autoseg.training.monitoring.event_files": "TensorBoard shows the time of day",
    "autoseg.volume_io.dicom.structure_set": "a DICOM object says when it was made",
    "autoseg.workflows.doctor.checks": "compared with the start of the process",
    "autoseg.workflows.doctor.disk": "the clock itself is examined",
    "autoseg.workflows.doctor.system": "the clock itself is examined",
}
"""Reasons by module to ask for the time of day."""


def test_durations_are_measured_by_clocks_that_nobody_can_set() -> None:
    calls = [
        (shape.name_module(path), ast.unparse(node.func))
        for path in shape.list_sources()
        for node in ast.walk(shape.parse(path))
        if isinstance(node, ast.Call)
    ]
    assert ("autoseg.processes.child_process", "time.monotonic") in calls
    assert {module for module, call in calls if call.endswith(CLOCKS_THAT_JUMP)} == set(COMPARED_WITH_FILES)
