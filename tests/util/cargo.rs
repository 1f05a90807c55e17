//! Runs the cargo that has built this test, for the same target and in the same folder.

use std::path::Path;
use std::process::Command;

/// The folder of what was built for the target of this test.
pub(crate) fn outputs() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

pub(crate) fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([command, "--quiet", "--offline", "--target-dir"]);
    match outputs().file_name().and_then(|name| name.to_str()) {
        // This is a build for another target than the machine's own.
        Some(target) if target.contains("-linux-") => {
            cargo.arg(outputs().parent().unwrap()).args(["--target", target]);
        }
        _ => _ = cargo.arg(outputs()),
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("CARGO_BUILD_TARGET");
    // Another compiler that is found first would build everything anew, under the running tests.
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    if std::env::var_os("RUSTC").is_none() && rustc.exists() {
        cargo.env("RUSTC", rustc);
    }
    cargo
}
