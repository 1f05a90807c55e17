//! Measures the command with five hundred and a thousand services that are all killed, or all
//! stopped, at once, beside a bare loop that gives each child the same pipes, waits in `waitpid(-1)`
//! and does nothing else.
//!
//! The one rule: all figures come from outside, as in the rest of the bench.

use std::path::Path;

use super::support::{Bench, Target, outside, raw, rest};
use super::{Contestant, Folder, LIVED, OURS, Supervisor, millis};

const LOOP: &str = "bare loop";
const GROUPS: &str = "childminder command, groups";
/// The option that makes this program the bare loop: the number of services, their program and its
/// argument follow.
pub(super) const OPTION: &str = "--bare-loop";

fn bare_loop(Folder { service, word, .. }: &Folder, count: usize) -> Vec<Vec<String>> {
    vec![vec![OPTION.into(), count.to_string(), service.clone(), word.clone()]]
}

/// Configures the command to keep each service together by its process group alone, as the loop
/// does. By default it makes a cgroup for each, where it can.
fn groups(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let words = super::up(folder, count);
    let file = folder.path.join("childminder.toml");
    let text = std::fs::read_to_string(&file).expect("file");
    std::fs::write(file, text + "contain = 'group'\n").expect("file");
    words
}

/// Plays the bare loop.
pub(super) fn play(mut words: impl Iterator<Item = String>) {
    let mut word = || words.next().expect("three words");
    let (count, program, argument) = (word().parse().expect("a number"), word(), word());
    raw::raise_fd_limit();
    raw::supervise(&raw::Spec::new(Path::new(&program), &[&argument], [false, true, true]), count);
}

/// The milliseconds from the first kill to the first and to the last replacement's sign of life, and
/// from the request to stop to the end of the supervisor.
fn measure(contestant: &Contestant, service: &Path, count: usize) -> [f64; 3] {
    let mut supervisor = Supervisor::start(contestant, service, count).expect("start");
    rest(LIVED);
    let killed = raw::monotonic();
    supervisor.services.iter().for_each(|pid| raw::kill(*pid, libc::SIGKILL));
    let mut times: Vec<_> = (0..count).map(|_| supervisor.sign().expect("a replacement").0).collect();
    times.sort_unstable();
    rest(LIVED);
    let asked = raw::monotonic();
    raw::kill(supervisor.pids[0], libc::SIGTERM);
    raw::wait_unreaped(supervisor.pids[0]);
    [millis(killed, times[0]), millis(killed, times[count - 1]), millis(asked, raw::monotonic())]
}

pub(super) fn run(mut bench: Bench, service: &Path) {
    let Some(program) = outside::binary() else { return };
    let cgroups = Contestant { name: OURS, program: program.clone(), configure: super::up };
    let ours = Contestant { name: GROUPS, program, configure: groups };
    let own = std::env::current_exe().expect("own path");
    let bare = Contestant { name: LOOP, program: own, configure: bare_loop };
    for (count, what) in [(500, "500"), (1_000, "1,000")] {
        let titles = ["killed at once, the first back, ms", "killed at once, all back, ms", "stopped, ms"]
            .map(|title| format!("{what} services {title}"));
        let count = bench.size(count, 10);
        let [first, all, stopped] = bench.contest(
            titles.each_ref().map(String::as_str),
            9,
            &mut [
                (GROUPS, &mut || measure(&ours, service, count)),
                (OURS, &mut || measure(&cgroups, service, count)),
                (LOOP, &mut || measure(&bare, service, count)),
            ],
        );
        let is_target = what == "500";
        let target = |limit| if is_target { Target::AtMost(limit) } else { Target::None };
        bench.figure(&titles[0], GROUPS, "ms", first.of(GROUPS), target(3.0));
        bench.figure(&titles[0], LOOP, "ms", first.of(LOOP), Target::None);
        bench.ratio(&all, GROUPS, LOOP, target(1.15));
        bench.ratio(&all, OURS, LOOP, Target::None);
        bench.ratio(&stopped, GROUPS, LOOP, Target::AtMost(1.2));
        bench.ratio(&stopped, OURS, LOOP, Target::None);
    }
    bench.finish();
}
