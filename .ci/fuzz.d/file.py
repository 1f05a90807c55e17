"""Configuration files for `check`, whose verdict is compared with a plain model of what the README says.

A file is made of keys with values of which the model knows whether they are sound, and what they come
to. Other files are mutated, or large, or nested. Held is:

  - a file is accepted if all of its values are sound, and `check --effective` has them as the model;
  - each mistake is told once, on its line;
  - what Python's parser of TOML refuses is refused;
  - what is effective reads back as the same;
  - `check` ends within its time and its memory, with 0 or 2, and brings no control characters.
"""

import os
import re
import resource
import subprocess
import time
import tomllib

from part import is_control
from supervisor import Place

# Seconds and KiB of one check.
PATIENCE, MEMORY = 30, 384 << 10
# The longest file that is read.
LARGEST = 4 << 20

UNITS = {"d": 86_400 * 10**9, "h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
SIZES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
WRONG = object()

# As it is written, and what it comes to.
TIMES = [('"5s"', 5 * 10**9), ("5", 5 * 10**9), ("0", 0), ("1.5", 1_500_000_000), ('"500ms"', 500 * 10**6), ('"1.5m"', 90 * 10**9),
         ('"1h"', 3600 * 10**9), ('"2d"', 2 * 86_400 * 10**9), ('"7us"', 7000), ('"1 s"', 10**9), ("'20'", 20 * 10**9), ("1_000", 1000 * 10**9)]
WRONG_TIMES = ['"5 parsecs"', '""', "-1", '"-1s"', "true", '"1e3"', "inf", "nan", '"101y"', '"40000d"', "[]", "{}", "1979-05-27",
               '"1.5.5s"', '"s"', '"٣s"', "99999999999999999999"]
SHORT, LONG = TIMES[:7], [('"1h"', 3600 * 10**9), ('"2d"', 2 * 86_400 * 10**9), ("7200", 7200 * 10**9)]
FILE_SIZES = [('"10MiB"', 10 << 20), ('"512k"', 512 << 10), ("1", 1), ('"1.5GiB"', 3 << 29), ('"10MB"', 10_000_000), ("0x10", 16)]
WRONG_SIZES = ["0", '"0"', '"10 elephants"', "-1", "1.5", "true", '""']

# For each key: what is sound, and what is not. What a value comes to is None where it is not compared.
KEYS = {
    "autostart": ([("true", True), ("false", False)], ['"true"', "1", "0", "[]"]),
    "clear-environment": ([("true", True), ("false", False)], ['"yes"', "1"]),
    "environment": ([('{ A = "1", B_2 = "é" }', None), ("{}", None), ('{ "a b" = "" }', None)], ["{ A = 1 }", '{ "A=B" = "1" }', '"A=1"', '{ "" = "x" }', '{ A = "\\u0000" }']),
    "directory": ([('"/"', "/"), ('"."', None)], ['""', '" "', "1", '"a\\u0000b"']),
    "user": ([('"root"', "root"), ("0", 0)], ['"nobody-of-that-name"', '""', "-1", "4294967295", "true"]),
    "group": ([('"root"', "root"), ("0", 0)], ['"nobody-of-that-name"', "1.0", "[]"]),
    "groups": ([('["root", 0]', ["root", 0]), ("[]", [])], ['"root"', '["nobody-of-that-name"]', "[-1]", "{}"]),
    "umask": ([('"022"', "022"), ("0o27", "027"), ('"0"', "000"), ('"0o777"', "777")], ["22", '"8"', '"1000"', "0o1000", '"+2"', '"-2"', '""']),
    "limits": ([("{ nofile = 1024 }", {"nofile": 1024}), ('{ core = { soft = 0, hard = "unlimited" } }', {"core": {"soft": 0, "hard": "unlimited"}}),
                ('{ as = "512MiB" }', {"as": 512 << 20}), ("{}", {})],
               ["{ nofiles = 1 }", "{ nofile = -1 }", "{ core = { soft = 1 } }", "{ core = { soft = 2, hard = 1 } }", "1024", '{ as = "x" }']),
    "threshold": (TIMES, WRONG_TIMES),
    "kill-time": (TIMES, WRONG_TIMES),
    "min-restart-delay": (SHORT[:5], WRONG_TIMES),
    "max-restart-delay": (LONG, WRONG_TIMES),
    "restart": ([(f'"{when}"', when) for when in ("always", "on-failure", "never")], ['"sometimes"', '"Always"', "true", "1", '""']),
    "stop-signal": ([('"TERM"', "SIGTERM"), ('"SIGINT"', "SIGINT"), ('"15"', "SIGTERM"), ('"RTMIN+3"', "SIGRTMIN+3")],
                    ['"SIGNOPE"', "15", '"0"', '"65"', '"-1"', '"term inate"', '"RTMIN+99"']),
    "stdout": ([('"prefix"', "prefix"), ('"null"', "null"), ('"inherit"', "inherit"), ('"./@.log"', None),
                ('{ file = "./@.log", max-size = FILE_SIZE, keep = 3 }', None), ('{ file = "./@.log", direct = true }', None)],
               ['"file"', '""', "1", "{}", '{ file = "./@.log", max-size = WRONG_SIZE }', '{ file = "./@.log", keep = -1 }',
                '{ file = "./@.log", keep = 1001 }', '{ file = "./@.log", direct = true, keep = 1 }', '"./@/"', '{ file = "" }']),
}
KEYS["stderr"] = KEYS["stdout"]
COMMANDS = ([('command = ["/bin/true"]', ["/bin/true"]), ('command = ["/bin/echo", "é\\n", ""]', ["/bin/echo", "é\n", ""]),
             ('shell = "exec true"', ["/bin/sh", "-c", "exec true"]), ("shell = '''exec true'''", ["/bin/sh", "-c", "exec true"])],
            ["command = []", 'command = [""]', "command = 1", 'shell = ""', 'shell = "  "', "shell = []", 'command = ["/bin/true", 1]', 'command = "true"'])
NAMES = ["a", "web", "x" * 64, '"a.b"', '"a:1"', "_", "0", '"a@b+c"']
WRONG_NAMES = ['""', '"a b"', '"a/b"', '"-a"', '"é"', '"a*"', '"' + "x" * 65 + '"', '"a\\u001b[31m"', '"a\\nb"']
UNKNOWN = ["comand = 1", "depends = []", '"\\u001b[2J" = 1', "Threshold = 5", "é1 = 1"[1:], "kill_time = 5"]


class File:
    """A file made of keys, with what the model says of it."""

    def __init__(self, random):
        self.random = random
        self.lines = []
        self.mistakes = []
        self.effective = {}
        self.first_wrong = random.randrange(len(WRONG_NAMES))
        names = random.sample(NAMES, random.choice([1, 1, 2, 5]))
        for index, name in enumerate(names):
            self.table(name, index)

    def add(self, line, is_sound=True):
        self.lines.append(line)
        if not is_sound:
            self.mistakes.append(len(self.lines))

    def table(self, name, index):
        is_wrong = self.random.random() < 0.03
        if is_wrong:
            # Each of them once: a table that is there twice is another mistake.
            name = WRONG_NAMES[(self.first_wrong + index) % len(WRONG_NAMES)]
        self.add(f"[process.{name}]", not is_wrong)
        settings = self.effective.setdefault(tomllib.loads(f"x = {name}")["x"] if name.startswith('"') else name, {})
        rows = [self.command(settings)]
        for key in self.random.sample(list(KEYS), self.random.choice([0, 1, 3, 6, len(KEYS)])):
            rows.append(self.row(key, settings, f"{index}-{key}"))
        if self.random.random() < 0.04:
            rows.append((self.random.choice(UNKNOWN), False))
        self.random.shuffle(rows)
        for row in rows:
            self.add(*row)
            if self.random.random() < 0.1:
                self.add(self.random.choice(["", "# a comment", "  ", "\t# é"]))

    def command(self, settings):
        if self.random.random() < 0.05:
            return self.random.choice(COMMANDS[1]), False
        text, settings["command"] = self.random.choice(COMMANDS[0])
        return text, True

    def row(self, key, settings, place):
        sound, wrong = KEYS[key]
        is_sound = self.random.random() < 0.95
        text, value = self.random.choice(sound) if is_sound else (self.random.choice(wrong), WRONG)
        text = text.replace("@", place).replace("WRONG_SIZE", self.random.choice(WRONG_SIZES))
        size = self.random.choice(FILE_SIZES)
        if "FILE_SIZE" in text:
            text, value = text.replace("FILE_SIZE", size[0]), {"max-size": size[1], "keep": 3}
        settings[key] = value
        space = self.random.choice(["", " ", "\t"])
        return f"{space}{key}{space}={space}{text}{space}", is_sound

    def text(self):
        end = self.random.choice(["\n", "\n", "\n", "\r\n"])
        start = self.random.choice(["", "", "", "\ufeff"])
        return (start + end.join(self.lines) + self.random.choice(["", end])).encode()


def nanoseconds(text):
    number, unit = re.fullmatch(r"(\d+)([a-z]+)", text).groups()
    return int(number) * UNITS[unit]


def size(text):
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]+)", text).groups()
    return int(number) * SIZES[unit]


def differences(effective, model):
    """What `check --effective` has otherwise than the model."""
    found = tomllib.loads(effective)["process"]
    if list(found) != list(model):
        yield f"processes {list(found)} for {list(model)}"
        return
    for name, settings in model.items():
        for key, value in settings.items():
            there = found[name].get(key)
            if key in ("threshold", "kill-time", "min-restart-delay", "max-restart-delay"):
                there = nanoseconds(there)
            if key in ("stdout", "stderr") and isinstance(value, dict):
                there = {"max-size": size(there["max-size"]), "keep": there["keep"]}
            if value is not None and key != "environment" and there != value:
                yield f"{name}: {key} is {there!r} for {value!r}"


def mutated(random, data):
    data = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 5, 40])):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(6)
        if kind == 0:
            data[at : at + random.choice([1, 1, 3, 100])] = b""
        elif kind == 1:
            data[at:at] = random.choice([b'"', b"'''", b'"""', b"[", b"]", b"[[", b"{", b"}", b"=", b".", b"\n", b"\r", b"#", b"\\", b"\x00", b"\xff", b",",
                                         b"\x1b[2J", b"\xef\xbb\xbf", b"[process.x]\n", b"[monitor]\n", b"a.b.c = 1\n", b"\\u12"])
        elif kind == 2:
            other = random.randrange(len(data) + 1)
            data[at:at] = data[other : other + random.choice([1, 10, 200])]
        elif kind == 3:
            del data[at:]
        elif data:
            data[min(at, len(data) - 1)] = random.randrange(256)
    return bytes(data)


def large(random):
    """Files that are as large or as deep as they may be, or larger."""
    deep = random.choice([1000, 100_000, LARGEST // 2 - 100])
    return random.choice([
        lambda: b"x = " + b"[" * deep + b"]" * deep,
        lambda: b"x = " + b"[" * deep,
        lambda: b"x = " + b"{a=" * (deep // 3),
        lambda: b".".join([b"a"] * deep) + b" = 1",
        lambda: b"[" + b".".join([b"a"] * deep) + b"]",
        lambda: b"\n".join(b"[process.p%d]\ncommand = ['true']" % number for number in range(10_000)),
        lambda: b"\n".join(b"[process.p%d]\ncommand = 1" % number for number in range(10_000)),
        lambda: b"[process.a]\ncommand = ['true']\n" + b"\n".join(b"k%d = 1" % number for number in range(20_000)),
        lambda: b"[process.a]\ncommand = ['true']\n" + b"\n".join(b"bare%d" % number for number in range(5000)),
        lambda: b"[process.a]\ncommand = ['true']\ninstances = 10000\nstdout = './{instance}.log'",
        lambda: b"[process.a]\nshell = '" + b"x" * (LARGEST - 100) + b"'",
        lambda: b"[process.a]\nshell = '" + b"x" * (LARGEST + 100) + b"'",
        lambda: b"#" * LARGEST, lambda: b"\n" * LARGEST, lambda: b"\x00" * LARGEST, lambda: b"\xff" * 1000, lambda: b"[[process]]\n" * 50_000,
        # Files of another kind.
        lambda: b'{\n "name": "web",\n "x": [\n  1,\n  2\n ]\n},\n' * 80_000, lambda: b"def f(a):\n    x = [a, 1]\n    return x == a\n" * 80_000,
        lambda: b"[program:web]\ncommand=/bin/true -x\nautostart=true\n" * 70_000,
    ])()


def is_newer_toml(text):
    """Whether there may be something that TOML 1.1 allows and Python's parser does not know."""
    return re.search(r"\\[ex]|\{[^}]*\n|,\s*\}|\d\d:\d\d|\{[^}]*#", text) is not None


class Checker:
    def __init__(self, part, place):
        self.part, self.place = part, place

    def check(self, data, *options):
        """The exit code, and what is written to stdout and stderr."""
        self.place.write("childminder.toml", data)
        command = [self.part.binary, "check", *options]
        start = time.monotonic()
        child = subprocess.Popen(command, cwd=self.place.folder, env=self.place.env, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            self.wrong("a check takes too long", data)
        self.part.peak("ms of a check", int(1000 * (time.monotonic() - start)))
        return child.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def wrong(self, kind, data, detail=""):
        path = os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "fuzz", "found")
        os.makedirs(path, exist_ok=True)
        path = os.path.join(path, "file-" + re.sub(r"\W+", "-", kind)[:40] + ".toml")
        if not self.part.kinds[kind]:
            with open(path, "wb") as file:
                file.write(data)
        self.part.wrong(kind, f"{path}: {detail}"[:1500])

    def judge(self, data):
        """What holds for any file. The exit code, and what is effective."""
        code, out, err = self.check(data, "--effective", "--show-environment")
        if code not in (0, 2):
            self.wrong(f"check ends with {code}", data, err[-500:])
        if any(is_control(char) and char != "\n" for char in err):
            self.wrong("control characters in a message", data, repr(err[:500]))
        count = data.count(b"\n") + 1
        for line in err.splitlines():
            match = re.match(r"childminder\.toml:(\d+):(\d+): .", line)
            if not match and code == 2 and not re.match(r"/.*childminder\.toml: has \d+ bytes", line):
                self.wrong("a message without its place", data, repr(line))
            elif match and not 1 <= int(match[1]) <= count:
                self.wrong("a message about a line that is not there", data, repr(line))
        if code == 2 and not err:
            self.wrong("refused without a reason", data)
        if code == 0 and self.random.random() < 0.3 and len(out.encode()) <= LARGEST:
            again, same, said = self.check(out.encode(), "--effective", "--show-environment")
            if again != 0 or same != out:
                self.wrong("what is effective does not read back", data, said[:500])
        return code, out, err

    def made(self, random):
        made = File(random)
        data = made.text()
        code, out, err = self.judge(data)
        mistakes = sorted(set(made.mistakes))
        told = [int(line) for line in re.findall(r"^childminder\.toml:(\d+):\d+: (?!warning)", err, re.MULTILINE)]
        if mistakes != sorted(set(told)):
            self.wrong("mistakes on other lines than the model's", data, f"{sorted(set(told))} for {mistakes}: {err[:700]}")
        elif code == 0:
            for difference in differences(out, made.effective):
                self.wrong("something else is effective", data, difference)
        return data

    def case(self, random):
        self.random = random
        kind = random.randrange(200)
        if kind == 0:
            self.judge(large(random))
        elif kind < 80:
            self.made(random)
        else:
            data = mutated(random, File(random).text())
            code, _, _ = self.judge(data)
            try:
                text = re.sub("\r+\n", "\n", data.decode("utf-8")).removeprefix("\ufeff")
                text = re.sub("\r+$", "", text)
                tomllib.loads(text)
            except (ValueError, RecursionError) as error:
                if code == 0 and not (isinstance(error, tomllib.TOMLDecodeError) and is_newer_toml(text)):
                    self.wrong("accepted, and it is no TOML", data, repr(error))


def run(part):
    with Place("file") as place:
        checker = Checker(part, place)
        for _, random in part.cases():
            checker.case(random)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        part.figures["KiB of a check, or of this script"] = peak
        if peak > MEMORY:
            part.wrong("a check takes too much memory", f"{peak} KiB")
