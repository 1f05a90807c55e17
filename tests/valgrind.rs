//! Tests the command under valgrind, which has no child in the memory of its parent: processes are
//! started by `fork`, and no use of memory is wrong.
#![cfg(all(feature = "cli", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod run_util;

use std::process::Command;

#[test]
fn valgrind_finds_nothing() {
    if !run_util::needs_the_kernel("valgrind for its programs") {
        return;
    }
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["-q", "--error-exitcode=9", env!("CARGO_BIN_EXE_childminder"), "run", "--restart", "never", "--"]);
    let Ok(output) = valgrind.args(["sh", "-c", "echo said; exit 7"]).output() else {
        run_util::left_out("there is no valgrind");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), &*said), (Some(7), "[sh] said\n"), "{}", String::from_utf8_lossy(&output.stderr));
}
