"""Python imports this as it starts, in processes that tests start: see `child_runs.py`."""

import importlib.util
import os

if "PEAKHOLD_TEST_RUNS" in os.environ:
    path = os.path.join(os.path.dirname(os.path.dirname(__file__)), "child_runs.py")
    spec = importlib.util.spec_from_file_location("child_runs", path)
    child_runs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(child_runs)
    child_runs.listen_once_imported(os.environ["PEAKHOLD_TEST_RUNS"])
