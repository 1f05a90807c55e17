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
    shutil.rmtree(crate, ignore_errors=True)
    shutil.copytree("src", os.path.join(crate, "src"), copy_function=shutil.copy2)
    shutil.copytree(os.path.join("tests", "util"), os.path.join(crate, "tests", "util"))
    for file in ("README.md", "Cargo.lock"):
        shutil.copy2(file, crate)
    source = os.path.join(crate, "src")
    os.remove(os.path.join(source, "main.rs"))
    shutil.copy2(os.path.join(HERE, "guided.rs"), source)
    for path, _, names in os.walk(source):
        for name in filter(lambda name: name.endswith(".rs"), names):
            replace(os.path.join(path, name), r"^mod (?=\w+;)|pub\(super\) mod ", "pub(crate) mod ")
            replace(os.path.join(path, name), r"pub\(super\)", "pub(crate)")
    with open(os.path.join(source, "lib.rs"), "a") as lib:
        lib.write("\nextern crate self as childminder;\n#[allow(missing_docs)]\npub(crate) mod cli;\n#[allow(missing_docs)]\npub mod guided;\n")
    with open("Cargo.toml") as file:
        manifest = file.read()
    package, dependencies = manifest[: manifest.index("[features]")], manifest[manifest.index("[dependencies]") : manifest.index("[dev-")]
    with open(os.path.join(crate, "Cargo.toml"), "w") as file:
        file.write(package + "[features]\ndefault = [\"cli\"]\n" + manifest[manifest.index("cli = ") :].split("\n", 1)[0] + "\n\n")
        file.write(dependencies + 'libfuzzer-sys = { version = "0.4.9", default-features = false, features = ["link_libfuzzer"] }\n')
        file.write("\n[profile.fuzz]\ninherits = \"release\"\ndebug = 1\noverflow-checks = true\n[workspace]\n")
        for target in TARGETS:
            file.write(f'[[bin]]\nname = "{target}"\npath = "{target}.rs"\ntest = false\n')
            with open(os.path.join(crate, target + ".rs"), "w") as main:
                main.write(f"#![no_main]\nlibfuzzer_sys::fuzz_target!(|data: &[u8]| childminder::guided::{target}(data));\n")
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


def replace(path, what, by):
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(re.sub(what, by, text, flags=re.MULTILINE))


def seeds(target):
    """Inputs to start from."""
    if target == "file":
        with open("src/cli/config/example.toml") as example, open("README.md") as readme, open("src/cli/config/tests.rs") as tests:
            found = [example.read(), *re.findall(r"```toml\n(.*?)```", readme.read(), re.DOTALL)]
            found += [text.encode().decode("unicode_escape") for text in re.findall(r'"(\[process[^"]*?)"', tests.read())]
            return found
    if target == "requests":
        with open("README.md") as readme:
            return re.findall(r'^\{"version":1,"command".*$', readme.read(), re.MULTILINE)
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
