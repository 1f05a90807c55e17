//! Measures the command with five hundred and a thousand services that are all killed, or all
//! stopped, at once, beside two loops that give each child the same pipes and a session of its own.
//! The bare loop waits in `waitpid(-1)` and does nothing else. The strict loop makes the system
//! calls that what the command promises takes: it reads what a child has left in its pipes, takes
//! no child of others, and looks for what is left of a child's group, or removes its cgroup.
//!
//! The one rule: all figures come from outside, as in the rest of the bench.

use std::fs;
use std::path::{Path, PathBuf};

use super::support::{Bench, Target, outside, raw, rest};
use super::{Contestant, Folder, GROUPS, LIVED, OURS, Supervisor, millis};

const LOOP: &str = "bare loop";
const STRICT: &str = "strict loop, cgroups";
const STRICT_GROUPS: &str = "strict loop, groups";
/// The option that makes this program one of the loops: its name, the number of services, their
/// program and its argument follow.
pub(super) const OPTION: &str = "--loop";

fn bare(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    words(LOOP, folder, count)
}

fn strict(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    words(STRICT, folder, count)
}

fn strict_groups(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    words(STRICT_GROUPS, folder, count)
}

fn words(name: &str, Folder { service, word, .. }: &Folder, count: usize) -> Vec<Vec<String>> {
    vec![vec![OPTION.into(), name.into(), count.to_string(), service.clone(), word.clone()]]
}

/// Configures the command to keep each service together by its process group alone, as the loop
/// does. By default it makes a cgroup for each, where it can.
fn groups(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let words = super::up(folder, count);
    let file = folder.path.join("childminder.toml");
    let text = fs::read_to_string(&file).expect("file");
    fs::write(file, text + "contain = 'group'\n").expect("file");
    words
}

/// Plays a loop.
pub(super) fn play(words: Vec<String>) {
    let [name, count, program, argument] = words.try_into().expect("four words");
    let count = count.parse().expect("a number");
    raw::raise_fd_limit();
    let mut spec = raw::Spec::new(Path::new(&program), &[argument.as_str()], [false, true, true]);
    spec.setsid = true;
    if name == LOOP {
        return raw::supervise(&spec, count);
    }
    let home = (name == STRICT).then(|| Home::make().expect("a cgroup"));
    raw::supervise_strictly(spec, count, home.as_ref().map(|home| &*home.0));
}

/// The directory in which a strict loop makes its cgroups. By its name, the command removes it at
/// its next start if the loop was killed.
struct Home(PathBuf);

impl Home {
    fn make() -> Option<Self> {
        let own = std::process::id();
        let path = outside::cgroup_of(own)?.join(format!("childminder-{own}-0"));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The milliseconds from the first kill to the first and to the last replacement's sign of life,
/// and from the request to stop to the end of the supervisor.
fn measure(contestant: &Contestant, service: &Path, count: usize) -> [f64; 3] {
    let mut supervisor = Supervisor::start(contestant, service, count).expect("start");
    rest(LIVED);
    let killed = raw::monotonic();
    supervisor.services.iter().for_each(|pid| raw::kill(*pid, libc::SIGKILL));
    let mut back = || supervisor.sign().unwrap_or_else(|| panic!("{}: no replacement", contestant.name)).0;
    let mut times: Vec<_> = (0..count).map(|_| back()).collect();
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
    let bare = Contestant { name: LOOP, program: own.clone(), configure: bare };
    let strict_groups = Contestant { name: STRICT_GROUPS, program: own.clone(), configure: strict_groups };
    let strict = Contestant { name: STRICT, program: own, configure: strict };
    let has_cgroups = Home::make().is_some();
    for (count, what) in [(500, "500"), (1_000, "1,000")] {
        let titles = ["killed at once, the first back, ms", "killed at once, all back, ms", "stopped, ms"]
            .map(|title| format!("{what} services {title}"));
        let count = bench.size(count, 10);
        let (mut groups, mut strict_groups) =
            (|| measure(&ours, service, count), || measure(&strict_groups, service, count));
        let (mut cgroups, mut strict) = (|| measure(&cgroups, service, count), || measure(&strict, service, count));
        let mut bare = || measure(&bare, service, count);
        let mut contestants: Vec<(&str, &mut dyn FnMut() -> [f64; 3])> =
            vec![(GROUPS, &mut groups), (OURS, &mut cgroups), (LOOP, &mut bare), (STRICT_GROUPS, &mut strict_groups)];
        if has_cgroups {
            contestants.push((STRICT, &mut strict));
        }
        let [first, all, stopped] = bench.contest(titles.each_ref().map(String::as_str), 9, &mut contestants);
        let is_target = what == "500";
        let target = |limit| if is_target { Target::AtMost(limit) } else { Target::None };
        bench.figure(&titles[0], GROUPS, "ms", first.of(GROUPS), target(3.0));
        bench.figure(&titles[0], LOOP, "ms", first.of(LOOP), Target::None);
        bench.ratio(&all, GROUPS, LOOP, target(1.15));
        bench.ratio(&all, OURS, LOOP, Target::None);
        bench.ratio(&stopped, GROUPS, LOOP, Target::AtMost(1.2));
        bench.ratio(&stopped, STRICT_GROUPS, LOOP, Target::None);
        bench.ratio(&stopped, GROUPS, STRICT_GROUPS, Target::None);
        bench.ratio(&stopped, OURS, LOOP, Target::None);
        if has_cgroups {
            bench.ratio(&stopped, STRICT, LOOP, Target::None);
            bench.ratio(&stopped, OURS, STRICT, Target::None);
        }
    }
    bench.finish();
}
