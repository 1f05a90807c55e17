//! What `childminder up` and `run` say of output that they cannot pass on.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;

use up_util::{Folder, Up, until};

#[test]
fn leftover_processes_do_not_take_all_descriptors() {
    let folder = Folder::new();
    folder.write(
        "leaver",
        "n=1; until mkdir $n 2>/dev/null; do n=$((n+1)); done\n\
         setsid sh -c \"mkdir left-$n; exec sleep 1000\" &\n\
         until [ -d left-$n ]; do sleep 0.01; done\n\
         [ $n -lt 30 ] || exec sleep 1000\n",
    );
    let up =
        Up::start_in(folder, "[process.leaver]\ncommand = [\"sh\", \"./leaver\"]\ndirectory = \".\"\nthreshold = 0\n");
    until_started(&up, 30);
    let open = fs::read_dir(format!("/proc/{}/fd", up.pid())).unwrap().count();
    assert!(open < 50, "{open}");
    let err = up.folder.read("err");
    let said = "childminder: [leaver] the pipes of an earlier process were still open and are closed now; ";
    assert_eq!(err.matches(said).count(), 29 - 8, "{err}");
}

fn until_started(up: &Up, count: usize) {
    until(&format!("{count} starts"), || (up.folder.read("err").matches("] started").count() >= count).then_some(()));
}
