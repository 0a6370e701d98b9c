"""What the CPU's kernels give for the arguments of the tests, by digest.

A machine without Numba holds its kernels against these. Arguments must be exact on any machine: no
exp, no normal numbers. ``ACTPRUNE_WRITE_DIGESTS=1 pytest tests/test_cuda.py`` writes them anew.
"""

import hashlib
import json
import os
from pathlib import Path

import torch

FILE = Path(__file__).with_name("calls.json")
CALLS = json.loads(FILE.read_text()) if FILE.is_file() else {}
WRITING = os.environ.get("ACTPRUNE_WRITE_DIGESTS", "0") != "0"


def parts(value):
    """The bytes of a value, and of all that is in it."""
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().contiguous()
        yield f"{array.dtype}{list(array.shape)}".encode()
        yield array.flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, tuple | list):
        yield f"({len(value)}".encode()
        for part in value:
            yield from parts(part)
    else:
        yield repr(value).encode()


def digest(*values):
    return hashlib.sha256(b"|".join(parts(values))).hexdigest()[:16]


def hold(kernel, arguments, result):
    """Assert that a kernel's result is what the CPU gave for these arguments."""
    key, found = f"{kernel} {digest(*arguments)}", digest(result)
    assert key in CALLS, "no digest of these arguments: see committed.py"
    assert found == CALLS[key], kernel


def note(kernel, arguments, result):
    """Write down what the CPU gave."""
    CALLS[f"{kernel} {digest(*arguments)}"] = digest(result)
    FILE.write_text(json.dumps(dict(sorted(CALLS.items())), indent=1) + "\n")
