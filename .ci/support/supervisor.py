"""What the scripts of this folder share: a supervisor in a folder of its own, and a look at /proc.

The one rule: whatever a script has started carries a mark in its environment, and is killed by it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def marked(mark):
    """The living processes that have this in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if mark.encode() in environ.read().split(b"\0") and alive(pid):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def until(done, seconds):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def memory(pid, field="VmRSS"):
    """In KiB; `VmHWM` is the peak. 0 if the process is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def processor_time(pid):
    """User and system time in seconds."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


# Set when a script has been asked to end.
over = threading.Event()


def exit_on_signals():
    """Has SIGTERM, SIGHUP and Ctrl-C end a script by way of its `finally` clauses."""

    def end(number, _):
        over.set()
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end)


class Place:
    """A folder, and a mark for everything that is started in it. Both are gone at the end."""

    def __init__(self, name):
        self.folder = tempfile.mkdtemp(prefix=f"childminder-{name}-")
        self.mark = f"CHILDMINDER_TEST={os.path.basename(self.folder)}"
        self.env = dict(os.environ, **dict([self.mark.split("=")]))
        # What the machine has set must not change what is written, or where the socket is.
        for name in ("NOTIFY_SOCKET", "XDG_RUNTIME_DIR"):
            self.env.pop(name, None)
        self.keep = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill_all()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill_all(self):
        for _ in range(20):
            left = marked(self.mark)
            if not left:
                break
            for pid in left:
                kill(pid)
            time.sleep(0.02)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def read(self, name, default=b""):
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except OSError:
            return default

    def write(self, name, content):
        """As a whole or not at all."""
        with open(self.path(name + ".new"), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.rename(self.path(name + ".new"), self.path(name))


class Up:
    """A running `childminder up` in a place; its stdout and stderr are the files `out` and `err`."""

    def __init__(self, binary, place, processes, fds=()):
        self.place = place
        place.write("childminder.toml", configuration(processes))
        # It must not outlive a script that is killed.
        command = ["setpriv", "--pdeathsig", "KILL", binary, "up"]
        with open(place.path("out"), "ab") as out, open(place.path("err"), "ab") as err:
            self.child = subprocess.Popen(command, cwd=place.folder, env=place.env, stdin=subprocess.DEVNULL,
                                          stdout=out, stderr=err, pass_fds=fds)
        self.pid = self.child.pid
        if not until(lambda: self.child.poll() is not None or self.answers(), 20):
            raise RuntimeError("the supervisor does not answer: " + place.read("err").decode(errors="replace"))
        if self.child.poll() is not None:
            raise RuntimeError("the supervisor has ended: " + place.read("err").decode(errors="replace"))

    def answers(self):
        try:
            return self.ask(command="status")["ok"]
        except (OSError, ValueError):
            return False

    def connect(self, timeout=30):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(self.place.path("s"))
        except OSError:
            connection.close()
            raise
        return connection

    def ask(self, timeout=30, **request):
        """The answer to one request; of `logs`, with the lines as `lines`."""
        with self.connect(timeout) as connection:
            connection.sendall(json.dumps(dict(request, version=1)).encode() + b"\n")
            lines = []
            with connection.makefile("rb") as stream:
                for line in stream:
                    answer = json.loads(line)
                    if "ok" in answer:
                        return dict(answer, lines=lines)
                    lines.append(answer)
        raise OSError("no answer")

    def status(self):
        return {process["name"]: process for process in self.ask(command="status")["processes"]}

    def stop(self, seconds=20):
        """Ends it by SIGTERM; its exit code, or None if it hangs."""
        if self.child.poll() is None:
            self.child.terminate()
            until(lambda: self.child.poll() is not None, seconds)
        return self.child.poll()


def configuration(processes):
    return '[monitor]\nsocket = "./s"\n' + processes
