"""Requests to the socket of a real supervisor, whose answers are compared with a model of the protocol.

Some clients at a time send requests that are sound, mutated, cut in pieces, or no requests at all.
The model is made of what the README says and of Python's JSON. Held is:

  - each line has one answer, in its order, which accepts or refuses as the model does;
  - an answer is short (but for the status), and holds no control characters;
  - the processes that are not meant by any request are never touched;
  - the memory of the supervisor, its descriptors and its processor time are in the end what they were.
"""

import json
import re
import time

from part import is_control
from supervisor import Place, Up, descriptors, memory, over, processor_time, until

# `asleep` must never run, and the two precious ones must never stop.
PROCESSES = """
[process.precious]
command = ["sleep", "1000"]
instances = 2
[process.asleep]
command = ["sleep", "1000"]
autostart = false
[process.toy]
command = ["sleep", "1000"]
kill-time = "100ms"
min-restart-delay = "10ms"
max-restart-delay = "20ms"
[process.talker]
shell = "seq 1 50; exec sleep 1000"
kill-time = "100ms"
min-restart-delay = "10ms"
max-restart-delay = "20ms"
"""
NAMES = ["precious:1", "precious:2", "asleep", "toy", "talker"]
KEYS = {"version", "command", "names", "all", "wait", "progress", "signal", "follow", "rolling"}
WORDS = ["status", "start", "stop", "restart", "reset", "signal", "reload", "reopen", "logs"]
# The longest line, and what may come with it in one read: in between, both answers are right.
LONGEST, READ = 64 << 10, 16 << 10
YEAR = 365 * 86_400
# In KiB: what the supervisor may have more than at the start, with several clients at its limits.
GROWTH = 24 << 10


class Refused(Exception):
    pass


def refuse(*_):
    raise Refused


def number(text):
    value = float(text)
    if value in (float("inf"), float("-inf")):
        refuse()
    return value


def integer(text):
    number(text)
    return int(text)


def is_text(value):
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def read(line):
    """What a line asks for, as (command, names). None for an empty one, and `Refused` if it is none."""
    if not line.strip(b" \t\n\r\x0c"):
        return None
    try:
        request = json.loads(line.decode("utf-8"), parse_constant=refuse, parse_float=number, parse_int=integer)
    except (ValueError, RecursionError, OverflowError):
        refuse()
    # Half of a character is no text, wherever it is.
    if not isinstance(request, dict) or not set(request) <= KEYS or not is_text(json.dumps(request, ensure_ascii=False)):
        refuse()
    if type(request.get("version")) is not int or request["version"] != 1:
        refuse()
    for flag in ("all", "progress", "follow", "rolling"):
        if not isinstance(request.get(flag, False), bool):
            refuse()
    names, command = request.get("names", []), request.get("command")
    if not isinstance(names, list) or not all(map(is_text, names)):
        refuse()
    if not is_text(command) or command not in WORDS + ["shutdown"] or names and request.get("all"):
        refuse()
    if "wait" in request:
        wait = request["wait"]
        if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait <= YEAR:
            refuse()
    if command == "signal" and not is_signal(request.get("signal")):
        refuse()
    named = bool(names) or request.get("all", False)
    if named == (command in ("reload", "reopen", "shutdown")) and command not in ("status", "logs"):
        refuse()
    meant = [name for name in NAMES if any(fits(pattern, name) for pattern in names)] if names else NAMES
    # Who follows may wait for processes that come later.
    waits = command == "logs" and request.get("follow", False)
    later = [pattern for pattern in names if waits and re.search("[*?]", pattern)]
    if any(not any(fits(pattern, name) for name in NAMES) for pattern in names if pattern not in later):
        refuse()
    return command, meant, request


# What is no signal. Whether anything else is one is not the model's business: both answers are right.
NO_SIGNALS = ["SIGNOPE", "0", "-9", "65", "99999999999"]


def is_signal(text):
    return is_text(text) and text not in NO_SIGNALS


def fits(pattern, name):
    return re.fullmatch("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern), name, re.DOTALL) is not None


def is_harmless(line):
    """Whether a line, if it is taken for a request, concerns only what it may."""
    try:
        meaning = read(line)
    except Refused:
        # A part of it may mean something to somebody who reads it in another way.
        return b"shutdown" not in line and b"precious" not in line or len(line) > LONGEST
    if meaning is None or meaning[0] in ("status", "logs", "reload", "reopen"):
        return True
    return meaning[0] != "shutdown" and set(meaning[1]) <= {"toy", "talker"}


def request(random):
    """A sound one, most of the time."""
    asked = {"version": 1, "command": random.choice(WORDS)}
    if asked["command"] not in ("reload", "reopen"):
        asked["names"] = [random.choice(["toy", "talker", "t*", "to?", "*y", "nobody", "TOY", "", "toy "])
                          for _ in range(random.choice([1, 1, 2, 50]))]
    if asked["command"] == "signal":
        asked["signal"] = random.choice(["HUP", "SIGTERM", "9", "CONT", "RTMIN+1", *NO_SIGNALS])
    if random.random() < 0.1:
        asked["wait"] = random.choice([0, 0.001, 0.5, -1, 1e300, YEAR, YEAR + 1, "5", None, True])
    if random.random() < 0.1:
        asked["rolling"] = random.choice([True, False, 1])
    if random.random() < 0.1:
        asked["progress"] = random.choice([True, False, 1, None])
    return asked


def mutated(random, asked):
    key = random.choice([*KEYS, "name", "", "versio\u0000n", "\x1b[31m"])
    asked[key] = random.choice([
        0, 1, 2, -1, 1.0, 1e300, 2**64, True, False, None, "", "toy", "1", [], ["toy"], ["toy", 1], {}, {"names": ["*"]},
        ["x" * random.randrange(70_000)], "\ud800", "\x1b[2J", ["*a" * 500], [[["toy"]]],
    ])
    return asked


def line(random):
    kind = random.randrange(12)
    if kind == 0:
        return random.randbytes(random.randrange(1, 300)).replace(b"\n", b"?")
    if kind == 1:
        return random.choice([b"[", b'{"a":', b'"', b"0", b"\x00", b" ", b"\xff"]) * random.randrange(30_000)
    if kind == 2:
        return b"x" * random.choice([LONGEST - 1, LONGEST, LONGEST + 1, LONGEST + READ + 1, 200_000, 1_000_000])
    if kind == 3:
        # Sound, and as long as a request may be, or longer.
        text = json.dumps(request(random)).encode()
        return text + b" " * (random.choice([LONGEST, LONGEST + READ + 1]) - len(text))
    asked = request(random)
    if kind < 8:
        for _ in range(random.choice([1, 1, 2])):
            mutated(random, asked)
    text = bytearray(json.dumps(asked).encode())
    if kind in (8, 9):
        for _ in range(random.choice([1, 1, 5])):
            text[random.randrange(len(text))] = random.choice([*b'"{}[]:,\\0 \x00\xff1', random.randrange(256)])
        text = text.replace(b"\n", b" ")
    return bytes(text)


def expected(sent):
    """Whether a line is accepted: True, False, or None if both is right; and what it means."""
    if len(sent) > LONGEST + READ:
        return False, None
    try:
        meaning = read(sent)
    except Refused:
        return False, None
    if meaning is None:
        return "nothing", None
    command, _, asked = meaning
    # It may be over before its goal is reached, or be too late to reach anybody.
    open_end = len(sent) > LONGEST or "wait" in asked or command == "signal"
    return None if open_end else True, meaning


class Conversation:
    def __init__(self, part, up, number, random):
        self.part, self.up, self.number, self.random = part, up, number, random
        self.lines = []
        for _ in range(random.choice([1, 1, 2, 5, 40])):
            one = line(random)
            # A conversation that follows a log has no end.
            if is_harmless(one) and not (b"follow" in one and expected(one)[0] is not False):
                self.lines.append(one)

    def wrong(self, kind, sent):
        self.part.wrong(kind, f"case {self.number}: {sent[:300]!r} ({len(sent)} bytes)")

    def carry_out(self):
        with self.up.connect() as connection, connection.makefile("rb") as answers:
            stream = b"\n".join(self.lines) + b"\n"
            if self.random.random() < 0.3 or len(self.lines) == 1:
                self.send_in_pieces(connection, stream)
                self.expect(answers, self.lines)
            else:
                for one in self.lines:
                    connection.sendall(one + b"\n")
                    if not self.expect(answers, [one]):
                        return
            # Half a request, and gone.
            if self.random.random() < 0.2:
                connection.sendall(b'{"version":1,"command":"sto')

    def send_in_pieces(self, connection, stream):
        if len(stream) > 100_000:
            connection.sendall(stream)
            return
        while stream:
            size = self.random.choice([1, 10, 1000, 16384, 65536])
            connection.sendall(stream[:size])
            stream = stream[size:]

    def expect(self, answers, lines):
        """Whether each line has had an answer."""
        for sent in lines:
            accepted, meaning = expected(sent)
            if accepted == "nothing":
                continue
            answer = self.next_answer(answers, sent)
            if answer is None:
                return False
            if answer.get("version") != 1 or answer.get("ok") not in (True, False):
                self.wrong("an answer of another form", sent)
            elif answer.get("error") == "a rolling restart is under way already":
                # Whether one is depends on how fast the processes stop, which the model does not know.
                continue
            elif accepted is not None and answer["ok"] != accepted:
                self.wrong("refused, and the model accepts it" if accepted else "accepted, and the model refuses it",
                           sent + b" -> " + json.dumps(answer).encode())
            if not answer.get("ok") and not answer.get("error"):
                self.wrong("refused without a reason", sent)
            if not answer.get("ok") and any(map(is_control, str(answer.get("error")))):
                self.wrong("control characters in a refusal", sent + b" -> " + json.dumps(answer).encode())
            if answer.get("ok") and meaning and meaning[0] == "status":
                names = [process["name"] for process in answer["processes"]]
                if names != meaning[1]:
                    self.wrong("the status of other processes", sent)
            if answer.get("ok") and meaning and meaning[0] in ("start", "stop", "restart", "reset") and answer["names"] != meaning[1]:
                self.wrong("other processes are meant", sent)
        return True

    def next_answer(self, answers, sent):
        while True:
            try:
                text = answers.readline(1 << 20)
            except OSError as error:
                self.wrong("no answer", sent + repr(error).encode())
                return None
            if not text:
                self.wrong("the connection is closed", sent)
                return None
            try:
                answer = json.loads(text)
            except ValueError:
                self.wrong("an answer that is no JSON", sent + b" -> " + text[:200])
                return None
            if "progress" not in answer and "line" not in answer:
                if len(text) > 8192 and "processes" not in answer and "names" not in answer:
                    self.wrong("a long answer", sent)
                return answer


def run(part):
    with Place("requests") as place:
        up = Up(part.binary, place, PROCESSES)
        before = up.status()
        start, open_before = memory(up.pid), descriptors(up.pid)

        def client():
            for number, random in part.cases():
                Conversation(part, up, number, random).carry_out()
                part.peak("KiB of the supervisor", memory(up.pid))
                if up.child.poll() is not None:
                    part.wrong("the supervisor has ended", f"case {number}: {place.read('err')[-500:]!r}")
                    return

        part.on_threads(3, client)
        if up.child.poll() is not None:
            return
        after = up.status()
        for name in ("precious:1", "precious:2"):
            if after[name]["pid"] != before[name]["pid"] or after[name]["restarts"]:
                part.wrong("a process was touched that nobody meant", name)
        if after["asleep"]["state"] != "stopped" or after["asleep"]["last_exit"]:
            part.wrong("a process was started that nobody meant", "asleep")
        if not until(lambda: descriptors(up.pid) <= open_before + 4, 15):
            part.wrong("descriptors are left", f"{open_before} before, {descriptors(up.pid)} after")
        part.figures["KiB at the start and the end"] = f"{start} {memory(up.pid)}"
        if part.figures["KiB of the supervisor"] > start + GROWTH:
            part.wrong("the supervisor grows", f"from {start} KiB to {part.figures['KiB of the supervisor']} KiB")
        used = processor_time(up.pid)
        time.sleep(1)
        if processor_time(up.pid) - used > 0.1 and not over.is_set():
            part.wrong("the supervisor does not come to rest", f"{processor_time(up.pid) - used} s in a second")
        if up.stop() != 0:
            part.wrong("the supervisor does not end with 0", f"{up.child.poll()}")
        if b"panicked" in place.read("err"):
            part.wrong("a panic", place.read("err")[-2000:].decode(errors="replace"))
