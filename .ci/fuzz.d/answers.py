"""A hostile server against each command that talks to one.

For each case a client is started, and gets an answer that was mutated, cut, endless, or slow. Held is:

  - the client ends by itself: soon after the server has closed the connection, and within its patience
    if the server says nothing, or says it too slowly (`logs --follow` may wait for ever);
  - its memory stays bounded, whatever and however much is sent;
  - it never panics, and ends with 0, 1 or 125, and with 0 only if a server has said that all is well;
  - nothing that a terminal would obey comes out, but for the colours of lines; programs get JSON and
    lines as they are.
"""

import json
import os
import pty
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time

from part import is_control
from supervisor import Place, kill, memory, over

MIB = 1 << 20
# The peak of a client, in KiB. The status of 10,000 processes takes a fifth of it.
MEMORY = 256 << 10
# After which an endless answer is over.
ENDLESS = 1 << 30
# From the end of the connection to the end of the client, in seconds.
END = 10
# A client waits for an answer for 30 s, and with --wait for that time, too.
PATIENCE = 50
# So many clients at a time are slow ones: each of them does nothing most of the time.
SLOW = 24

COMMANDS = [
    "status", "status web", "status --json", "status --watch", "status --watch --json", "start web", "stop --all",
    "start web --wait --timeout 2s", "restart web --wait --timeout 2s", "restart * --json", "signal HUP web",
    "signal 9 web --json", "reload", "reload --wait --timeout 2s", "reload --json", "reopen", "shutdown",
    "shutdown --wait --timeout 2s", "logs", "logs web --json", "logs -f", "logs -f --json",
]

NASTY = [
    "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\r\x1b[Kchildminder: [web] started, pid 1", "a\nb", "\x00", "\x7f",
    "\x9b31m", "\u202eevil", "\u2028", "é" * 300, "x" * 100_000, "", "-", "%s%n", "web\x1b[A", "\ud800",
]
RAW = [
    "1e999", "-1e999", "1e308", "-0", "18446744073709551616", "-9223372036854775809", "1e-400", "9" * 400, "NaN", "tru",
    '"\\ud800"', '"\\u0000"', '"\\u001b[31m"', '{"a":1,"a":2}', "[" * 200, "[" * 100 + "]" * 100, "01", '"\x1b"', "{}", "[]",
    "null", "-1", "4294967296", "0.1", "true",
]


def process(random):
    def maybe(value):
        return value if random.random() < 0.6 else None

    return {
        "name": random.choice(["web", "worker:1", "a" * 64]),
        "state": random.choice(["running", "stopped", "backing-off", "stopping", "unkillable", "exited"]),
        "pid": maybe(random.randrange(1 << 22)),
        "uptime": maybe(random.random() * 10 ** random.randrange(9)),
        "restarts": random.randrange(1 << 20),
        "retry_in": maybe(random.random() * 3600),
        "start_error": maybe("no such file"),
        "stop_error": maybe("killed 3 s ago, and still there"),
        "last_exit": maybe({"code": maybe(random.randrange(256)), "signal": maybe("SIGTERM"), "text": "exit status 1"}),
        "cpu": maybe(random.random() * 1000),
        "peak_memory": maybe(random.randrange(1 << 40)),
    }


def sound(random, command):
    """What a supervisor would answer, as objects."""
    answer = {"version": 1, "ok": True}
    before = []
    if command.startswith("status"):
        answer["processes"] = [process(random) for _ in range(random.choice([0, 1, 3, 30]))]
    elif command.startswith("logs"):
        for number in range(random.randrange(20)):
            line = {"version": 1, "name": "web", "stream": "stdout", "line": f"line {number}"}
            before.append(dict(line, **random.choice([{}, {"cut": True}, {"continued": True}])))
    elif command.startswith("reload"):
        answer.update({key: ["web"] * random.randrange(3) for key in ("added", "removed", "restarted", "updated")})
    elif not command.startswith(("reopen", "shutdown")):
        answer["names"] = ["web"]
    if "--wait" in command and random.random() < 0.5:
        before += [{"version": 1, "progress": {"done": done, "of": 3}} for done in range(3)]
    if random.random() < 0.2:
        answer = {"version": 1, "ok": False, "error": "there is no process `web`"}
        if command.startswith("reload"):
            answer["errors"] = ["childminder.toml:1:1: a mistake"] * random.randrange(1, 5)
    return before + [answer]


def mutate(random, value, raws):
    """Replaces something within a value. Raw JSON gets in by a mark that `dumps` replaces."""
    nodes = []

    def walk(node):
        if isinstance(node, dict):
            nodes.extend((node, key) for key in node)
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            nodes.extend((node, index) for index in range(len(node)))
            for child in node:
                walk(child)

    walk(value)
    for _ in range(random.choice([1, 1, 1, 3, 8])):
        where, key = random.choice(nodes)
        try:
            kind = random.randrange(4)
            if kind == 0:
                where[key] = random.choice(NASTY)
            elif kind == 1:
                raws.append(random.choice(RAW))
                where[key] = f"@raw{len(raws) - 1}@"
            elif kind == 2 and isinstance(where, dict):
                where[random.choice(NASTY[:9])] = where.pop(key)
            else:
                where[key] = random.choice([None, True, [], {}, {"code": "x"}, [[1]], 0, ["\x1b[31m"] * 9])
        except (KeyError, IndexError):
            pass  # what was to be replaced is gone already


def dumps(value, raws=()):
    text = json.dumps(value)
    for number, raw in enumerate(raws):
        text = text.replace(f'"@raw{number}@"', raw)
    return text.encode("utf-8", "surrogatepass")


def script(random, command, slow):
    """The steps of a server, and whether it has been an honest one that said that all is well."""
    objects = sound(random, command)
    if slow:
        line = dumps(objects[-1]) + b"\n"
        return random.choice([
            [("silence", b"")],
            [("send", line[: random.randrange(len(line))]), ("silence", b"")],
            [("trickle", b'{"version":1,"processes":[' + b" " * 4000)],
            [("trickle", b"\n" * 4000)],
        ]), False
    kind = random.randrange(10)
    if random.random() < 0.01:
        # As much as can be, in as little.
        value = random.choice([b"0,", b"[],", b'"",', b"{},", b'{"":0},', b"[[[[0]]]],", b'{"name":"a"},', b'{"a":{"b":{"c":[]}}},'])
        start = random.choice([b'{"version":1,"ok":true,"processes":[', b'{"version":1,"ok":false,"errors":[', b'{"version":1,"ok":true,"names":['])
        return [("send", start + value * (15 * MIB // len(value)) + b"0]}\n"), ("close", b"")], False
    if kind == 0:
        lines = b"".join(dumps(one) + b"\n" for one in objects)
        pieces = random.choice([1, 1, 7, 1000])
        steps = [("send", lines[start : start + len(lines) // pieces + 1]) for start in range(0, len(lines), len(lines) // pieces + 1)]
        return steps + [("close", b"")], objects[-1]["ok"]
    if kind == 1:
        block = random.choice([
            b"x" * MIB, b"\n" * MIB, b"\x00" * MIB, b"\x1b[31m" * 200_000, b"[" * MIB, b"{\"a\":" * 200_000,
            b'{"version":1,"processes":[' + b"[]," * 300_000, b'"' + b"\\u0000" * 150_000, b"0," * 500_000,
            dumps({"version": 1, "progress": {"done": 1, "of": 2}}) + b"\n",
            dumps({"version": 1, "name": "w", "stream": "stdout", "line": "x" * 15_000}) + b"\n",
            dumps({"version": 1, "name": "n" * 100_000, "stream": "stdout", "line": "x"}) + b"\n", b"{}\n", b" ", b"\xff",
        ])
        start = random.choice([b"", b"[", b'{"ok":true,"processes":[', b'{"error":"'])
        return [("send", start), ("endless", block * max(1, MIB // len(block)))], False
    if kind == 2:
        return [("send", random.randbytes(random.randrange(3000)))] + [(random.choice(["close", "reset"]), b"")], False
    if kind == 3:
        lines = b"".join(dumps(one) + b"\n" for one in objects)
        return [("send", lines[: random.randrange(len(lines))]), (random.choice(["close", "reset"]), b"")], False
    raws = []
    mutate(random, objects, raws)
    lines = b"".join(dumps(one, raws) + random.choice([b"\n"] * 9 + [b"\r\n", b"", b"\n\n", b"\n\x00"]) for one in objects)
    if random.random() < 0.2:
        data = bytearray(lines)
        for _ in range(random.choice([1, 4, 30])):
            if data:
                data[random.randrange(len(data))] = random.choice([random.randrange(256), 0x22, 0x5C, 0x7B, 0x0A, 0x1B])
        lines = bytes(data)
    return [("send", lines), ("close", b"")], False


def says_ok(data):
    """Whether any line of an answer could be taken for one that says that all is well."""
    return re.search(rb'"(ok|processes)"', data) is not None


class Client:
    """One client and its server."""

    def __init__(self, part, number, command, steps, honest, terminal):
        self.part, self.command, self.steps, self.honest, self.terminal = part, command, steps, honest, terminal
        self.detail = f"case {number}: childminder {command}; the server: " + ", ".join(
            f"{what} {data[:300]!r}" + ("…" if len(data) > 300 else "") for what, data in steps[:6])
        self.peak = 0
        self.grown = False
        self.code = None
        self.output = b""

    def wrong(self, kind, came=""):
        self.part.wrong(kind, self.detail + came)

    def run(self, place, name):
        path = place.path(name)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(8)
        # It would be refused as a stranger's file.
        os.chmod(path, 0o600)
        arguments = [self.part.binary, *self.command.split(), "--socket", path]
        ours = theirs = None
        if self.terminal:
            ours, theirs = pty.openpty()
            streams = dict(stdout=theirs, stderr=theirs)
        else:
            keep = not any(what == "endless" for what, _ in self.steps)
            out = os.memfd_create("out") if keep else os.open("/dev/null", os.O_WRONLY)
            streams = dict(stdout=out, stderr=out)
        try:
            self.child = subprocess.Popen(arguments, cwd=place.folder, env=place.env, stdin=subprocess.DEVNULL, **streams)
            if theirs is not None:
                os.close(theirs)
                reader = threading.Thread(target=self.read_terminal, args=[ours])
                reader.start()
            else:
                reader = None
            # A wall around a client that grows without end.
            try:
                resource.prlimit(self.child.pid, resource.RLIMIT_AS, (4 * ENDLESS, 4 * ENDLESS))
            except OSError:
                pass
            self.serve(listener)
            if reader:
                reader.join()
            elif keep:
                self.output = os.pread(out, 64 * MIB, 0)
        finally:
            if self.code is None:
                kill(self.child.pid)
                self.child.wait()
            listener.close()
            os.unlink(path)
            os.close(ours if self.terminal else out)
        self.judge()

    def read_terminal(self, fd):
        while True:
            try:
                data = os.read(fd, 65536)
            except OSError:
                return
            if not data:
                return
            if len(self.output) < 64 * MIB:
                self.output += data

    def is_over(self):
        """Whether the client has ended; measures it, and ends it if it has grown too large."""
        if self.code is None:
            self.peak = max(self.peak, memory(self.child.pid, "VmHWM"))
            pid, status, usage = os.wait4(self.child.pid, os.WNOHANG)
            if pid:
                self.code = self.child.returncode = os.waitstatus_to_exitcode(status)
                # What it had of us before its exec counts there, too.
                if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
                    self.peak = max(self.peak, usage.ru_maxrss)
            elif self.peak > MEMORY and not self.grown:
                self.grown = True
                self.wrong(f"more than {MEMORY >> 10} MiB of memory: {self.kind()}")
                kill(self.child.pid)
        return self.code is not None

    def kind(self):
        return "an endless answer" if self.steps[-1][0] == "endless" else "a short answer"

    def wait(self, seconds, fd=None, events=select.POLLIN):
        """Until the client has ended, the descriptor is ready, or the time is over."""
        end = time.monotonic() + seconds
        poll = select.poll()
        if fd is not None:
            poll.register(fd, events)
        pause = 1
        while not self.is_over() and not over.is_set():
            left = end - time.monotonic()
            if left <= 0:
                return False
            if poll.poll(min(pause, left * 1000)):
                return True
            pause = min(pause * 2, 50)
        return False

    def serve(self, listener):
        if not self.wait(END, listener):
            if not self.is_over():
                self.wrong("the client does not connect")
            return
        connection, _ = listener.accept()
        connection.setblocking(False)
        endless = self.command.startswith("logs -f")
        with connection:
            if self.honest and self.wait(END, connection):
                # Who closes a connection and has not read all breaks it.
                connection.recv(65536)
            for what, data in self.steps:
                if what == "send":
                    self.send(connection, data)
                elif what == "endless":
                    sent = 0
                    while sent < ENDLESS // (16 if data.endswith(b"\n") else 1) and self.send(connection, data):
                        sent += len(data)
                    self.part.peak("MiB sent to one client", sent // MIB)
                elif what in ("trickle", "silence"):
                    start = time.monotonic()
                    while time.monotonic() - start < PATIENCE and not self.is_over() and not over.is_set():
                        self.wait(1)
                        if what == "trickle" and not self.send(connection, data[:40]):
                            break
                        data = data[40:]
                    # Where nothing can be sent any more, the client has given up and is about to end.
                    waited = time.monotonic() - start >= PATIENCE
                    if waited and not self.is_over() and not endless and not over.is_set():
                        self.wrong(f"a client waits for more than {PATIENCE} s: {what}")
                    self.part.peak("seconds waited for a slow server", int(time.monotonic() - start))
                elif what == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if self.is_over():
                    break
            # `shutdown --wait` looks for another server.
            listener.close()
        closed = time.monotonic()
        self.wait(END + 5)
        if self.code is None:
            if not over.is_set():
                self.wrong("the client does not end with its server")
            return
        self.part.peak("ms from the end of a server to its client's", int(1000 * (time.monotonic() - closed)))

    def send(self, connection, data):
        """Whether the client has taken all of it."""
        view = memoryview(data)
        while view and not self.is_over():
            try:
                view = view[connection.send(view) :]
            except BlockingIOError:
                if not self.wait(PATIENCE, connection, select.POLLOUT):
                    return False
            except OSError:
                return False
        return not view and not self.is_over()

    def judge(self):
        self.part.peak("KiB of a client's memory", self.peak)
        if self.code is None or self.code == -signal.SIGKILL:
            return  # told already
        # `status` says by 3 that not all are up.
        well = (0, 3) if self.command.startswith("status") else (0,)
        if self.code not in (*well, 1, 125):
            self.wrong(f"a client ends with {self.code}")
        if b"panicked" in self.output:
            self.wrong("a client panics: " + self.output.decode(errors="replace"))
        sent = b"".join(data for _, data in self.steps)
        if self.code in well and not says_ok(sent) and not self.command.startswith("logs"):
            self.wrong("a client says that it is done, and no server has said so")
        if self.honest and self.code not in well and "--watch" not in self.command:
            self.wrong(f"a sound answer is refused: {self.code} {self.output[:300]!r}")
        self.judge_output()

    def judge_output(self):
        output = self.output
        if self.terminal:
            output = output.replace(b"\r\n", b"\n")
            # What the client itself has to say to a terminal.
            output = re.sub(rb"\r?\x1b\[K|\x1b\[H|\x1b\[2J|\x1b\[J|(?<=\d of \d)\r", b"", output)
            if self.command.startswith("logs"):
                # Lines may have colours.
                output = re.sub(rb"\x1b\[[\d;]*m", b"", output)
        text = output.decode("utf-8", "replace")
        controls = {char for char in text if is_control(char) and char != "\n"}
        if not self.terminal and "--json" in self.command:
            # Programs get what JSON allows.
            controls = {char for char in controls if char < " "}
        elif not self.terminal and self.command.startswith("logs"):
            # And lines as they were written.
            controls = set()
        if controls:
            self.wrong(f"control characters reach the {'terminal' if self.terminal else 'output'} of "
                       f"`{self.command.split()[0]}{' --json' if '--json' in self.command else ''}`", f"; what came: {self.output[-600:]!r}")


def run(part):
    os.environ["TERM"] = "xterm"
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with Place("answers") as place:
        lasting = not part.limit and part.seconds >= 2 * PATIENCE

        def fast():
            for number, random in part.cases():
                command = random.choice(COMMANDS)
                steps, honest = script(random, command, False)
                terminal = random.random() < 0.2 and not any(what == "endless" for what, _ in steps)
                Client(part, number, command, steps, honest, terminal).run(place, f"s{number}")

        def slow():
            while time.monotonic() < part.end - PATIENCE - END and not over.is_set():
                number, random = next(part.cases(), (0, None))
                if random is None:
                    return
                command = random.choice(COMMANDS)
                steps, honest = script(random, command, True)
                Client(part, number, command, steps, honest, False).run(place, f"s{number}")

        turn = iter([fast, fast] + [slow] * SLOW)
        part.on_threads(2 + (SLOW if lasting else 0), lambda: next(turn)())
    if not lasting:
        part.figures["left out, as they take minutes"] = "silent and slow servers"
