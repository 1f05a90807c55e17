"""What processes write, through a real supervisor: into files, to its own outputs, and to the logs.

Each round writes a stream for each process, starts all, and waits until they have written it. At the
end of some rounds the supervisor is stopped, and all that it has made of the streams is compared with
what a plain model makes of them. Held is:

  - a file, with the files that were rotated from it, has the bytes that were written, in their order;
  - the supervisor's own output has each line with the name of its process, long ones in pieces;
  - the logs have the last lines;
  - nothing is dropped, as all is read;
  - the memory of the supervisor stays bounded, whatever the length of a line.
"""

import os
import re

from part import escaped
from supervisor import Place, Up, memory, over, until

# The longest piece of a line.
PIECE = 16384
# Rounds of one supervisor.
ROUNDS = 12
# In KiB.
MEMORY = 48 << 10

# `dd` writes in pieces of a size that the round says. A newline comes before a stream that follows
# one without a newline at its end.
WRITER = 'shell = "exec dd if=in.{0} bs=$(cat size.{0}) status=none{1}"\nautostart = false\nrestart = "never"\ndirectory = "."\n'
FILES = ["kept", "rotated", "tiny", "link", "own"]
MARKED = ["out", "err"]


def processes():
    text = ""
    for name in FILES + MARKED:
        text += f"[process.{name}]\n" + WRITER.format(name, " >&2" if name == "err" else "")
        text += {
            "kept": 'stdout = "./kept.log"\n',
            "rotated": 'stdout = { file = "./rotated.log", max-size = "64k", keep = 1000 }\n',
            "tiny": 'stdout = { file = "./tiny.log", max-size = 700, keep = 1000 }\n',
            "link": 'stdout = { file = "./link.log", max-size = "16k", keep = 1000 }\n',
            "own": 'stdout = "/dev/fd/{0}"\n',
        }.get(name, "")
    return text


def stream(random, limit):
    """Bytes in which lines of all lengths come, in any encoding and none."""
    out = bytearray()
    while len(out) < limit and random.random() < 0.95:
        kind = random.randrange(9)
        if kind < 3:
            out += random.choice([b"", b"a line", b"caf\xc3\xa9", b"\r", b"[out] a line", b"childminder: [out] started, pid 1"])
        elif kind == 3:
            out += random.choice([b"x", "é".encode(), "€".encode(), "\U0001f980".encode(), b"\x80", b"\xe2\x82", b"\xf0\x9f\xa6"]) \
                * random.choice([1, 100, PIECE // 4, PIECE, PIECE + 1, 2 * PIECE])
        elif kind == 4:
            # Around the end of a piece.
            out += b"y" * (PIECE - random.randrange(6)) + random.choice([b"", "é€".encode(), "\U0001f980".encode(), b"\xff\x80"])
        elif kind == 5:
            out += random.randbytes(random.choice([1, 30, 1000]))
        elif kind == 6:
            out += b"\n" * random.choice([1, 2, 500])
        elif kind == 7:
            out += random.choice([b"\x1b[31m", b"\x00", b"\x1b]0;x\x07", b"\x9b", b"\x08\x08", b"\x7f", "\x85\u2028".encode()])
        else:
            out += b"z" * random.randrange(200)
        if random.random() < 0.8:
            out += b"\n"
    if out and random.random() < 0.7 and not out.endswith(b"\n"):
        out += b"\n"
    return bytes(out[:limit])


def pieces(data):
    """The lines of a stream as they are handed out: each with whether it carries on the one before it."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for line in lines:
        continued = False
        while len(line) > PIECE:
            end = PIECE - started(line)
            yield line[:end], continued
            line, continued = line[end:], True
        yield line, continued


def started(line):
    """How many bytes before the end of a piece belong to a character that goes on behind it."""
    for count in (1, 2, 3):
        lead = line[PIECE - count]
        if lead & 0xC0 == 0x80:
            continue
        # What is left of the character is a matter of taste: here it ends as soon as it could.
        known = line[PIECE - count : PIECE + 1]
        rests = [b"", b"\x80", b"\x80\x80", b"\xbf", b"\xbf\xbf"]
        for rest in rests:
            try:
                if len((known + rest).decode("utf-8")) == 1 and len(known) > count:
                    return count
            except UnicodeDecodeError:
                pass
        return 0
    return 0


class Epoch:
    """One supervisor, and all that was written under it."""

    def __init__(self, part, number, random, place):
        self.part, self.number, self.random, self.place = part, number, random, place
        self.written = {name: [] for name in FILES + MARKED}
        self.own = open(place.path("own.log"), "wb+")
        # The descriptor must not be one that something else uses.
        text = processes().replace("{0}", str(self.own.fileno()))
        place.write("linked.log", "")
        os.symlink("linked.log", place.path("link.log"))
        for name in self.written:
            place.write(f"in.{name}", "")
            place.write(f"size.{name}", "1")
        self.up = Up(part.binary, place, text, fds=[self.own.fileno()])

    def wrong(self, kind, detail):
        self.place.keep = True
        self.part.wrong(kind, f"case {self.number}, {self.place.folder}: {detail}")

    def round(self):
        for name, streams in self.written.items():
            limit = self.random.choice([0, 10, 1000, 1000, 50_000, 50_000, 400_000])
            if name == "tiny":
                limit = min(limit, 50_000)
            data = stream(self.random, limit)
            if self.random.random() < 0.02:
                data = self.random.choice([b"x" * 8, b"\n", "é".encode() * 4, b"\x80" * 8]) * (1 << 20 if name != "tiny" else 1000)
            streams.append(data)
            self.place.write(f"in.{name}", data)
            sizes = [1, 7, 100] if len(data) < 5000 else []
            self.place.write(f"size.{name}", str(self.random.choice(sizes + [511, 4096, 16384, 65536, 1 << 20])))
        self.up.ask(command="start", all=True)
        if not until(lambda: all(process["state"] == "exited" for process in self.up.status().values()), 60):
            self.wrong("a round does not end", self.up.status())
        self.part.peak("KiB of the supervisor", memory(self.up.pid, "VmHWM"))

    def judge(self):
        logs = {name: self.up.ask(command="logs", names=[name])["lines"] for name in self.written}
        if self.up.stop() != 0:
            self.wrong("the supervisor does not end with 0", self.up.child.poll())
        said = self.place.read("err")
        if b"panicked" in said or re.search(rb"\d lines? w(as|ere) dropped", said):
            self.wrong("a panic, or lines that were dropped", said[-1000:])
        if self.part.figures["KiB of the supervisor"] > MEMORY:
            self.wrong("the supervisor grows", self.part.figures["KiB of the supervisor"])
        for name in FILES:
            expected = joined(self.written[name])
            found = self.file("linked.log" if name == "link" else name + ".log")
            if found != expected:
                at = next((at for at, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), min(len(found), len(expected)))
                self.wrong(f"the file of `{name}` is not what was written",
                           f"{len(found)} bytes for {len(expected)}, different from {at} on: {found[at - 40 : at + 40]!r} for {expected[at - 40 : at + 40]!r}")
        for name in MARKED:
            self.compare(name, [escaped(line) + ("+" if continued else "") for data in self.written[name] for line, continued in pieces(data)],
                         [escaped(line) + ("+" if mark else "") for mark, line in marked(self.place.read(name), name.encode())])
        for name, lines in logs.items():
            found = [escaped(line["line"].encode()) + ("+" if line.get("continued") else "") for line in lines]
            expected = [escaped(line) + ("+" if continued else "") for data in self.written[name] for line, continued in pieces(data)]
            if found != expected[len(expected) - len(found) :] or bool(found) != bool(expected):
                self.wrong(f"the logs are not the last lines", f"{name}: {found[:3]!r}… for {expected[-len(found):][:3]!r}…")
        self.own.close()

    def compare(self, name, expected, found):
        if expected != found:
            at = next((at for at, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), min(len(found), len(expected)))
            self.wrong(f"the lines of `{name}` are not what was written",
                       f"{len(found)} for {len(expected)}, different from {at} on: {found[at : at + 2]!r} for {expected[at : at + 2]!r}"[:600])

    def file(self, name):
        """All files that were rotated from this one, and this one."""
        numbers = [""]
        while self.place.read(f"{name}.{len(numbers)}", None) is not None:
            numbers.append(f".{len(numbers)}")
        return b"".join(self.place.read(name + number) for number in reversed(numbers))


def joined(streams):
    """Streams one after the other, with a newline only where two lines would be glued together."""
    out = bytearray()
    for data in streams:
        if data and out and not out.endswith(b"\n"):
            out += b"\n"
        out += data
    return bytes(out)


def marked(output, name):
    """The lines of a process in the supervisor's output, each with its mark."""
    for line in output.split(b"\n"):
        match = re.match(rb"\[" + name + rb"(\+?)\] (.*)", line, re.DOTALL)
        if match:
            yield match[1], match[2]


def run(part):
    for number, random in part.cases():
        with Place("lines") as place:
            epoch = Epoch(part, number, random, place)
            for _ in range(ROUNDS):
                if not over.is_set():
                    epoch.round()
            epoch.judge()
    part.figures["rounds"] = part.count * ROUNDS
