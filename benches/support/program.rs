//! The program of the children: a static program of a few hundred bytes without a C library, so
//! that the dynamic loader is not measured. `cc` builds it once in each run.
//!
//! The one rule: a mode does one thing, and reports it on stdout if it reports anything.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `argv[1]` is the mode, and `argv[2]` and `argv[3]` are numbers:
///
/// - none: exits at once.
/// - `idle`: waits for ever.
/// - `at:PATH`: writes the time and its pid (8 bytes each) into the named pipe, waits for ever and
///   exits with its parent. It exits at once if the pipe has no reader. It is one word, so that it
///   fits on a `#!` line.
/// - `ready:PATH`: does the same, and reports on descriptor 3 that it is ready, as s6 expects.
/// - `deaf`: ignores SIGTERM, reports that with a line, and waits for ever.
/// - `stamp`: writes the time (8 bytes), waits for a byte on stdin, writes the time again and
///   exits.
/// - `flood MIB`: writes so many MiB of 100-byte lines, in blocks of 64 KiB.
/// - `later SIGNS GO MIB`: writes the time and its pid into the named pipe SIGNS as `at` does,
///   waits until somebody opens the named pipe GO, does what `flood` does, writes into SIGNS again,
///   waits for ever and exits with its parent.
/// - `drip MICROS N`: writes a line of 24 bytes that begins with the time (8 bytes), N times, once
///   every MICROS microseconds.
const SOURCE: &str = r##"
#if defined(__x86_64__)
__asm__(".globl _start\n_start: mov %rsp,%rdi\n and $-16,%rsp\n call start\n");
static long sys(long n, long a, long b, long c, long d) {
    long r; register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return r;
}
enum { READ = 0, WRITE = 1, SIGACTION = 13, NANOSLEEP = 35, GETPID = 39, PRCTL = 157, CLOCK = 228, EXIT = 231, OPENAT = 257,
    PPOLL = 271 };
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: mov x0, sp\n bl start\n");
static long sys(long n, long a, long b, long c, long d) {
    register long x8 __asm__("x8") = n; register long x0 __asm__("x0") = a; register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c; register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
enum { OPENAT = 56, READ = 63, WRITE = 64, PPOLL = 73, EXIT = 94, NANOSLEEP = 101, CLOCK = 113, SIGACTION = 134, PRCTL = 167,
    GETPID = 172 };
#endif
static long now(void) {
    long t[2]; sys(CLOCK, 1, (long)t, 0, 0);
    return t[0] * 1000000000 + t[1];
}
static long number(const char *s) {
    long n = 0; while (*s) n = n * 10 + (*s++ - '0');
    return n;
}
static void idle(void) { for (;;) sys(PPOLL, 0, 0, 0, 0); }
static char block[65500];
static void flood(const char *mebibytes) {
    for (long i = 0; i < 65500; i++) block[i] = i % 100 == 99 ? '\n' : 'x';
    for (long left = number(mebibytes) << 20; left > 0; left -= 65500) sys(WRITE, 1, (long)block, 65500, 0);
}
void start(long *stack) {
    long argc = stack[0]; char **argv = (char **)(stack + 1); char byte; long t;
    if (argc > 1) switch (argv[1][0]) {
    case 'i': idle();
    case 'a': case 'r': {
            long sign[2] = { now(), sys(GETPID, 0, 0, 0, 0) };
            sys(PRCTL, 1 /* PR_SET_PDEATHSIG */, 9, 0, 0);
            char *path = argv[1]; while (*path++ != ':');
            /* Whose parent died before that finds no reader. */
            long pipe = sys(OPENAT, -100, (long)path, 04001 /* O_WRONLY | O_NONBLOCK */, 0);
            if (pipe < 0) break;
            sys(WRITE, pipe, (long)sign, 16, 0);
            if (argv[1][0] == 'r') sys(WRITE, 3, (long)"\n", 1, 0);
            idle();
        } break;
    case 'd': if (argv[1][1] == 'e') {
            long ignore[4] = { 1, 0, 0, 0 };
            sys(SIGACTION, 15, (long)ignore, 0, 8); sys(WRITE, 1, (long)"!\n", 2, 0); idle();
        } else {
            long pause[2] = { 0, number(argv[2]) * 1000 };
            for (long n = number(argv[3]); n > 0; n--) {
                sys(NANOSLEEP, (long)pause, 0, 0, 0);
                for (int i = 0; i < 23; i++) block[i] = 'x';
                /* In letters, so that no byte of it ends the line. */
                t = now(); for (int i = 0; i < 16; i++) block[i] = 'a' + (t >> (4 * i) & 15);
                block[23] = '\n'; sys(WRITE, 1, (long)block, 24, 0);
            }
        } break;
    case 's': t = now(); sys(WRITE, 1, (long)&t, 8, 0);
        sys(READ, 0, (long)&byte, 1, 0);
        t = now(); sys(WRITE, 1, (long)&t, 8, 0); break;
    case 'f': flood(argv[2]); break;
    case 'l': {
            long sign[2] = { now(), sys(GETPID, 0, 0, 0, 0) };
            sys(PRCTL, 1, 9, 0, 0);
            long pipe = sys(OPENAT, -100, (long)argv[2], 04001, 0);
            if (pipe < 0) break;
            sys(WRITE, pipe, (long)sign, 16, 0);
            sys(OPENAT, -100, (long)argv[3], 0, 0);
            flood(argv[4]);
            sign[0] = now(); sys(WRITE, pipe, (long)sign, 16, 0);
            idle();
        }
    }
    for (;;) sys(EXIT, 0, 0, 0, 0);
}
"##;

/// The bytes that a child writes if it is to write this many mebibytes: whole blocks.
pub(crate) fn written(mebibytes: usize) -> usize {
    const BLOCK: usize = 65_500;
    (mebibytes << 20).div_ceil(BLOCK) * BLOCK
}

/// The path of the program. `None`, with a message on stderr, if `cc` cannot build it.
pub(crate) fn build() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-child");
    if compile(&path).is_none() {
        eprintln!("skipped: it takes `cc` on x86-64 or AArch64 Linux to build the child");
        return None;
    }
    Some(path)
}

fn compile(path: &Path) -> Option<()> {
    let mut cc = Command::new("cc")
        .args([
            "-O1",
            "-static",
            "-nostdlib",
            "-fno-stack-protector",
            "-fno-builtin",
            "-fno-tree-loop-distribute-patterns",
        ])
        .args(["-Wl,--build-id=none", "-s", "-x", "c", "-", "-o"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .ok()?;
    cc.stdin.take()?.write_all(SOURCE.as_bytes()).ok()?;
    cc.wait().ok()?.success().then_some(())
}
