"""TensorBoard's own server on a folder, as a process; and what it has read so far."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request


class Server:
    """Use as a context manager; on a free port of this machine.

    `load_fast`: with its data server, "true", or the reader that Python brings, "false".
    """

    def __init__(self, log_dir, load_fast="false"):
        self.log_dir, self.load_fast, self.said = str(log_dir), load_fast, []

    def __enter__(self):
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "tensorboard.main", "--logdir", self.log_dir,
                "--host", "127.0.0.1", "--port", "0", "--load_fast", self.load_fast,
            ],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            self.url = self._url()
        except BaseException:
            self.__exit__()
            raise
        # A pipe that nobody empties would stop it.
        threading.Thread(target=self.said.extend, args=(self.process.stderr,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()

    def _url(self):
        for line in self.process.stderr:
            self.said.append(line)
            if match := re.search(r"http://\S+", line):
                return match.group()
        raise AssertionError(f"TensorBoard did not start: {''.join(self.said)}")

    def get(self, path, **query):
        """What it answers, from JSON; None where it does not know of that (yet)."""
        query = urllib.parse.urlencode(query)
        with contextlib.suppress(urllib.error.HTTPError):
            return json.load(urllib.request.urlopen(f"{self.url}data/{path}?{query}", timeout=60))
        return None
