"""The parts that are guided by coverage: libFuzzer, on a copy of the sources in which everything is visible.

The copy is one crate: the library, with the command as a module of it, and `guided.rs` beside them.
So the fuzzer reaches the parsers themselves, and the project has no second crate to keep.
"""

import os
import re
import shutil
import subprocess
import time

from supervisor import over

HERE = os.path.dirname(os.path.abspath(__file__))
TARGETS = ["file", "requests", "lines"]
# Each input is this long at most; a request has at most 64 KiB, and half as much shows the same.
LENGTH = {"file": 16384, "requests": 32768, "lines": 4096}
# In MiB, with what libFuzzer itself keeps: its corpus.
MEMORY = 1024
# Seconds for one input.
PATIENCE = 5
# Coverage as libFuzzer reads it, and the checks that a debug build has.
FLAGS = [
    "-Cpasses=sancov-module", "-Cllvm-args=-sanitizer-coverage-level=4", "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table", "-Cllvm-args=-sanitizer-coverage-trace-compares", "-Cdebug-assertions",
    "-Ccodegen-units=16", "--cap-lints=allow", "-Awarnings",
]
WORDS = {
    "file": """[monitor] [process.a] [process] command shell directory environment clear-environment user group groups umask
        limits nofile as core soft hard unlimited threshold kill-time min-restart-delay max-restart-delay restart always
        on-failure never stop-signal TERM autostart true false instances {instance} stdout stderr prefix null inherit file
        max-size keep direct socket ./s /dev/stdout /dev/fd/3 500ms 1.5m 1h 10MiB 022 0o022 root """.split()
        + ['"""', "'''", "[[", "]]", " = ", "\n", "\r\n", "\ufeff", "\\u0000", "\\U0001f980", "inf", "nan", "0x1", "1979-05-27"],
    "requests": ["version", "command", "names", "all", "wait", "progress", "signal", "follow", "status", "start", "stop", "restart",
        "reload", "reopen", "shutdown", "logs", "HUP", "SIGRTMIN+3", "true", "null", "1e999", "\\u0000", "\\ud800", '":', '","', "[\"",
        '{"version":1,"command":"'],
    "lines": ["\n", "\r\n", "\0", "é", "€", "\U0001f980", "\x1b[31m"],
}


def folder(*names):
    return os.path.abspath(os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "fuzz", *names))


def binary(target):
    return folder("build", "fuzz", target)


def build():
    """What is missing, if it cannot be built."""
    crate = folder("crate")
    files = {name: read(name) for name in ("README.md", "Cargo.lock", os.path.join("tests", "util", "guard.rs"))}
    for path, _, names in os.walk("src"):
        for name in names:
            text = read(os.path.join(path, name))
            if name.endswith(".rs") and re.match("src/(cli|monitor)(/|$)", path):
                # What the fuzzer calls is private in its module.
                text = re.sub(r"^mod (?=\w+;)", "pub(crate) mod ", text.replace("pub(super)", "pub(crate)"), flags=re.MULTILINE)
            files[os.path.join(path, name)] = text
    del files["src/main.rs"]
    files["src/guided.rs"] = read(os.path.join(HERE, "guided.rs"))
    files["src/lib.rs"] += "\nextern crate self as childminder;\npub(crate) mod cli;\npub mod guided;\n"
    manifest = read("Cargo.toml")
    dependencies = re.search(r"^\[dependencies\]\n.*?\n(?=\[)", manifest, re.DOTALL | re.MULTILINE)[0].replace(", optional = true", "")
    manifest = manifest[: manifest.index("[features]")] + dependencies
    manifest += 'libfuzzer-sys = { version = "0.4.9", default-features = false, features = ["link_libfuzzer"] }\n'
    manifest += '[profile.fuzz]\ninherits = "release"\ndebug = 1\noverflow-checks = true\n[workspace]\n'
    for target in TARGETS:
        manifest += f'[[bin]]\nname = "{target}"\npath = "{target}.rs"\n'
        files[target + ".rs"] = f"#![no_main]\nlibfuzzer_sys::fuzz_target!(|data: &[u8]| childminder::guided::{target}(data));\n"
    files["Cargo.toml"] = manifest
    lay(crate, files)
    host = re.search("host: (.*)", subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout)[1]
    # With a target of its own, what only builds is built without coverage.
    command = ["cargo", "build", "--quiet", "--profile", "fuzz", "--target", host, "--target-dir", folder("build")]
    built = subprocess.run(command, cwd=crate, env=dict(os.environ, RUSTFLAGS=" ".join(FLAGS)), capture_output=True, text=True)
    if built.returncode:
        if re.search("registry|download|offline|c\\+\\+", built.stderr):
            return "libfuzzer-sys cannot be built here: " + built.stderr.strip().splitlines()[-1]
        raise RuntimeError(built.stderr)
    os.makedirs(folder("build", "fuzz"), exist_ok=True)
    for target in TARGETS:
        shutil.copy2(folder("build", host, "fuzz", target), binary(target))
    return None


def read(path):
    with open(path) as file:
        return file.read()


def lay(folder, files):
    """Has the folder hold these files; what is the same already keeps its time, so that little is built again."""
    for path, _, names in os.walk(os.path.join(folder, "src")):
        for name in names:
            if os.path.relpath(os.path.join(path, name), folder) not in files:
                os.remove(os.path.join(path, name))
    for name, text in files.items():
        path = os.path.join(folder, name)
        if not os.path.exists(path) or name != "Cargo.lock" and read(path) != text:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)


def seeds(target):
    """Inputs to start from."""
    if target == "file":
        tests = re.findall(r'"(\[process(?:[^"\\]|\\.)*)"', read("src/cli/config/tests.rs"), re.DOTALL)
        return [
            read("src/cli/config/example.toml"),
            *re.findall(r"```toml\n(.*?)```", read("README.md"), re.DOTALL),
            *[text.replace("\\n", "\n").replace('\\"', '"') for text in tests],
        ]
    if target == "requests":
        return re.findall(r'^\{"version":1,"command".*$', read("README.md"), re.MULTILINE)
    return ["\x03\x05one\ntwelve bytes\n\nlast", "\x07\x01aä€\U0001f980" * 5]


def run(part):
    target = part.name.removeprefix("guided_")
    work = folder("work", target)
    found = folder("found")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    os.makedirs(found, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        with open(os.path.join(work, f"seed-{number}"), "w") as file:
            file.write(seed)
    dictionary = folder(f"{target}.dict")
    with open(dictionary, "w") as file:
        for word in WORDS[target]:
            file.write('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n')
    arguments = [f"-max_total_time={part.seconds}", f"-seed={part.seed % (1 << 31) + 1}", f"-timeout={PATIENCE}",
                 f"-rss_limit_mb={MEMORY}", f"-max_len={LENGTH[target]}", f"-dict={dictionary}", "-print_final_stats=1",
                 f"-artifact_prefix={found}/{target}-", "-use_value_profile=1"]
    log = folder(f"{target}.log")
    try:
        with open(log, "w") as out:
            child = subprocess.Popen([binary(target), *arguments, work], stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            while child.poll() is None and not over.is_set():
                time.sleep(0.1)
        finally:
            child.kill()
            child.wait()
        with open(log, errors="replace") as file:
            said = file.read()
        part.count = int((re.findall(r"stat::number_of_executed_units:\s*(\d+)", said) or ["0"])[-1])
        part.peak("peak MiB, with the corpus", int((re.findall(r"stat::peak_rss_mb:\s*(\d+)", said) or ["0"])[-1]))
        coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
        if coverage:
            part.figures["edges"], part.figures["features"], part.figures["corpus"] = coverage[-1]
        if child.returncode and not over.is_set():
            what = re.search(r"panicked at .*\n.*|ERROR: .*", said)
            path = re.search(r"Test unit written to (\S+)", said)
            part.wrong(what[0] if what else f"the fuzzer ends with {child.returncode}", f"{path[1] if path else log}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
