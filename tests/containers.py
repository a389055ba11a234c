"""Containers without an engine: what a Dockerfile says, in namespaces of the kernel.

Rules of this file:

1. The Dockerfile's own words count: entry point, user, environment, volume, health check, what is
   copied, and what is run. Left out is what needs an index: `apt-get` and `pip`. In their place stand
   the interpreter of the suite (with its packages) and this source.
2. A container's root is an overlay: the image's layer over the machine's own root, and above it a
   layer that is gone with the container. Volumes are bind mounts. PID 1 is the first process of a
   PID namespace, so what it does not handle, it does not get.
3. PID 1 is what the entry point names. Where the machine has no `tini` a stand-in of this file takes
   its place: it does the same, as far as signals and exit codes go.
4. Who is not root gets a user namespace, in which `USER` cannot be obeyed, and in which the kernel
   lends no root that has mounts below it. Where neither works all this is skipped, and says so.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
if not IS_ROOT:
    UNSHARE += ["--user", "--map-root-user"]

# A new tmpfs holds all layers: one below the machine's root could not lie above it.
ENTER = r"""
set -eu
work=$1 layer=$2; shift 2
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/image" "$work/upper" "$work/work" "$work/root"
cp -a "$layer/." "$work/image/"
cd "$work"
mount -t overlay overlay -o "lowerdir=$work/image:/,upperdir=$work/upper,workdir=$work/work" root
mount --rbind /dev root/dev
mount --rbind /sys root/sys
mount -t proc proc root/proc
mount -t tmpfs -o mode=1777 tmpfs root/tmp
while [ "$1" != -- ]; do mkdir -p "root$2"; mount --bind "$1" "root$2"; shift 2; done
shift
"""
START = ENTER + 'exec chroot "$@"'
BUILD = ENTER + 'chroot root sh -euc "$1"; cp -a upper/. "$layer/"'

INIT = """#!{python} -IS
import os, signal, sys
command = sys.argv[sys.argv.index("--") + 1:]
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
child = os.fork()
if child == 0:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    os.execvp(command[0], command)
while True:
    number = signal.sigwait(signal.valid_signals())
    if number != signal.SIGCHLD:
        os.kill(child, number)
        continue
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
"""


@functools.cache
def why_not():
    """Why no container can be had here; None if one can."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as layer:
        try:
            ran = subprocess.run(
                [*UNSHARE, "sh", "-c", START, "sh", work, layer, "--", "root", "true"],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        except FileNotFoundError as error:
            return str(error)
    return None if ran.returncode == 0 else f"no container can be had here: {ran.stderr.strip()}"


def needs_containers():
    """A mark for tests, or for a module."""
    return pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


class Dockerfile:
    """The last stage of one, as far as a container needs it.

    Args:
        text: Its content.
    """

    def __init__(self, text):
        self.arguments, self.environment = {}, {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        self.copied, self.run, self.volumes = [], [], []
        self.user, self.folder, self.entry, self.health = "0:0", "/", [], None
        lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
        for line in lines.splitlines():
            word, _, rest = line.strip().partition(" ")
            if word:
                getattr(self, f"_{word.lower()}")(rest.strip())

    def _from(self, rest):
        arguments = self.arguments
        self.__init__("")
        self.arguments = arguments

    def _arg(self, rest):
        name, _, value = rest.partition("=")
        self.arguments.setdefault(name, self._filled(value))

    def _env(self, rest):
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            self.environment[name] = self._filled(value)

    def _copy(self, rest):
        *sources, target = self._filled(rest).split()
        self.copied.append((sources, os.path.join(self.folder, target)))

    def _run(self, rest):
        self.run.append(self._filled(rest))

    def _volume(self, rest):
        self.volumes.append(rest)

    def _workdir(self, rest):
        self.folder = rest

    def _user(self, rest):
        self.user = rest

    def _entrypoint(self, rest):
        self.entry = json.loads(rest)

    def _healthcheck(self, rest):
        self.health = json.loads(rest.partition("CMD")[2])

    def _filled(self, text):
        known = {**self.environment, **self.arguments}
        return re.sub(r"\$\{?(\w+)\}?", lambda match: known.get(match[1], ""), text)


class Image:
    """What a Dockerfile makes of a folder.

    Args:
        dockerfile: Its path.
        context: The folder from which it copies.
        layer: An empty folder, which becomes the image's layer.
    """

    def __init__(self, dockerfile, context, layer):
        self.says = says = Dockerfile(dockerfile.read_text())
        self.layer = layer
        for sources, target in says.copied:
            if sources[0].startswith("--from"):
                continue  # /opt/venv: see below
            for source in sources:
                self._copy(context / source, target)
        shutil.copytree(ROOT / "src" / "peakhold", layer / "opt/peakhold/peakhold")
        (layer / "opt/venv").symlink_to(sys.prefix)
        (layer / ".dockerenv").touch()  # the mark of Docker's
        self.environment = {
            **says.environment, "PYTHONPATH": "/opt/peakhold", "OMP_NUM_THREADS": "1",
            "HOME": "/tmp",
        }  # fmt: skip
        if not self.environment["PATH"].startswith("/opt/venv/bin"):
            self.environment["PATH"] = f"/opt/venv/bin:{self.environment['PATH']}"
        self._put_init(layer / "usr/bin/tini")
        steps = [one for one in says.run if not re.search(r"\b(apt-get|pip)\b", one)]
        if IS_ROOT:  # who is another in the image must reach this interpreter, too
            reached = {str(one) for path in (sys.prefix, sys.base_prefix) for one in _above(path)}
            steps.insert(0, f"chmod a+x {' '.join(map(shlex.quote, sorted(reached)))}")
        else:  # there is one user in its namespace
            steps = [step for step in steps if "useradd" not in step]
        self._build(steps)

    def _copy(self, source, target):
        target = self.layer / target.lstrip("/")
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def _put_init(self, path):
        path.parent.mkdir(parents=True)
        if real := shutil.which("tini"):
            shutil.copy(real, path)
        else:
            path.write_text(INIT.format(python=os.path.realpath(sys.executable)))
            path.chmod(0o755)

    def _build(self, steps):
        with tempfile.TemporaryDirectory() as work:
            ran = subprocess.run(
                [*UNSHARE, "sh", "-c", BUILD, "sh", work, self.layer, "--", "\n".join(steps)],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        assert ran.returncode == 0, ran.stderr

    def start(self, volumes=(), arguments=(), entry=None):
        """A container.

        Args:
            volumes: Pairs of a folder here and one in the container.
            arguments: Added to the entry point.
            entry: In place of the image's.
        """
        return Container(self, volumes, [*(entry or self.says.entry), *arguments])

    def in_root(self, command):
        """Words for `chroot` that run a command as the image says."""
        user = [f"--userspec={self.says.user}"] if IS_ROOT else []
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', self.says.folder, *command]
        return [*user, "root", "env", "-i", *variables, *inside]


class Container:
    """One that runs; a `with` block ends it."""

    def __init__(self, image, volumes, command):
        self._image = image
        self._work = tempfile.mkdtemp()
        mounted = [str(path) for pair in volumes for path in pair]
        for here, _ in volumes:
            if IS_ROOT:
                os.chown(here, *map(int, image.says.user.split(":")))
        self._process = subprocess.Popen(
            [*UNSHARE, "sh", "-c", START, "sh", self._work, image.layer, *mounted, "--",
             *image.in_root(command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.init = self._until(lambda: children(self._process.pid))[0]
        """PID 1, as it is called here."""

    def until_entered(self, program="python"):
        """Wait until the entry point runs: its program, or the child of its init."""

        def entered():
            below = [self.init, *children(self.init)]
            return any(_name(pid).startswith(program) for pid in below if _is_inside(pid))

        self._until(entered)

    def until(self, condition):
        """Wait until something holds, or the container has ended."""
        self._until(condition)

    def _until(self, condition):
        while not (found := condition()) and self._process.poll() is None:
            time.sleep(0.002)
        return found or [None]

    def healthcheck(self):
        """What the image's health check says: its exit code and its words."""
        words = self._image.in_root(self._image.says.health)
        words[words.index("root")] = "/"
        user = [] if IS_ROOT else ["--user"]
        ran = subprocess.run(
            ["nsenter", "--target", str(self.init), *user, "--mount", "--pid", "--root",
             "chroot", *words],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return ran.returncode, ran.stdout + ran.stderr

    @contextlib.contextmanager
    def paused(self):
        """Its processes stand still meanwhile, but for PID 1."""
        below = children(self.init)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number == signal.SIGSTOP:
                yield

    def signal(self, number):
        """Send one to PID 1."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, number)

    def stop(self, grace=60):
        """As `docker stop` does: SIGTERM, and SIGKILL if it does not end; its exit code.

        Args:
            grace: Seconds in between; Docker's are 10, on a machine that is not busy with tests.
        """
        self.signal(signal.SIGTERM)
        if self._ends(grace):
            return self._process.returncode
        self.signal(signal.SIGKILL)
        self.wait()
        return 137

    def wait(self, timeout=600):
        """Its exit code; what it said is in `said` then."""
        if not self._ends(timeout):
            self._process.kill()
            self._ends(60)
            raise AssertionError(f"it did not end within {timeout} s; it said:\n{self.said}")
        return self._process.returncode

    def _ends(self, timeout):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.said, _ = self._process.communicate(timeout=timeout)
            return True
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()  # and with it, by --kill-child, PID 1 and all below
        self._process.communicate()
        shutil.rmtree(self._work, ignore_errors=True)


def _above(path):
    """A folder and all above it."""
    real = pathlib.Path(os.path.realpath(path))
    return [real, *real.parents[:-1]]


def children(pid):
    """The processes that it has started, and that are there."""
    try:
        return [
            int(one) for one in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def _name(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _is_inside(pid):
    try:
        return os.readlink(f"/proc/{pid}/root") != "/"
    except OSError:
        return False
