//! The conditions that a command sets for its program.
//!
//! The one rule: a condition that cannot be had fails the spawn, with a stage of its own.

use super::Command;
use crate::conditions::{IoPriority, Scheduler};
use crate::cpus::CpuSet;

/// The conditions of a run. All of them need Linux, and the spawn is refused elsewhere.
impl Command {
    /// Binds the child to these processors, and everything that it starts, unless that changes its
    /// own binding.
    ///
    /// The spawn fails (`EINVAL`) if the host may not use all of them. The kernel alone would leave
    /// out the others without a word.
    ///
    /// ```
    /// use childminder::{Command, RunToEnd, Topology};
    ///
    /// let cpus = Topology::of_this_machine()?.cpus();
    /// let one = cpus.iter().take(1).collect();
    /// let output = RunToEnd::new(Command::new("nproc").cpus(&one)).run()?;
    /// assert_eq!(output.stdout, b"1\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "sched_setaffinity")]
    #[doc(alias = "taskset")]
    pub fn cpus(&mut self, cpus: &CpuSet) -> &mut Self {
        self.attributes_mut().conditions.cpus = Some(cpus.clone());
        self
    }

    /// Gives the child memory of these NUMA nodes only (`MPOL_BIND`).
    #[doc(alias = "set_mempolicy")]
    #[doc(alias = "numactl")]
    pub fn memory_nodes(&mut self, nodes: &[u32]) -> &mut Self {
        self.attributes_mut().conditions.nodes = Some(nodes.iter().copied().collect());
        self
    }

    /// Loads the program at the same addresses each time (`ADDR_NO_RANDOMIZE`), which makes some
    /// programs' times vary less.
    ///
    /// It is also off for everything that the child starts, except for programs that are setuid or
    /// setgid. It takes a defence away from a program that handles hostile input.
    #[doc(alias = "personality")]
    #[doc(alias = "setarch")]
    pub fn no_aslr(&mut self, off: bool) -> &mut Self {
        self.attributes_mut().conditions.no_aslr = off;
        self
    }

    /// Sets the child's scheduling class. The real-time classes need the right to them
    /// (`CAP_SYS_NICE` or `RLIMIT_RTPRIO`).
    #[doc(alias = "sched_setscheduler")]
    #[doc(alias = "chrt")]
    pub fn scheduler(&mut self, scheduler: Scheduler) -> &mut Self {
        self.attributes_mut().conditions.scheduler = Some(scheduler);
        self
    }

    /// Sets the child's I/O priority.
    #[doc(alias = "ioprio_set")]
    #[doc(alias = "ionice")]
    pub fn io_priority(&mut self, priority: IoPriority) -> &mut Self {
        self.attributes_mut().conditions.io_priority = Some(priority);
        self
    }

    /// Starts the child through a small program, so that [`Usage::max_rss`](crate::Usage::max_rss)
    /// is its own and not at least the host's.
    ///
    /// The start takes about a third of a millisecond longer. The host gets one more SIGCHLD. Where
    /// the small program cannot be used, the child is started in the ordinary way:
    ///
    /// - on other systems than Linux, and other architectures than x86-64;
    /// - with [`SpawnMethod::Fork`](crate::SpawnMethod::Fork), [`pty`](Self::pty),
    ///   [`listen_fd`](Self::listen_fd), or a process group that the child does not lead;
    /// - under a [guard](crate::Reactor::kill_trees_at_death), unless the child is in a cgroup;
    /// - if the system forbids programs in memory (`vm.memfd_noexec`).
    ///
    /// ```
    /// use childminder::{Command, RunToEnd};
    ///
    /// let heap = std::hint::black_box(vec![1_u8; 100 << 20]);
    /// let output = RunToEnd::new(Command::new("true").own_peak(true)).run()?;
    /// # #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    /// assert!(output.exit.usage.max_rss < 10 << 20);
    /// # drop(heap);
    /// # Ok::<(), childminder::RunError>(())
    /// ```
    #[doc(alias = "ru_maxrss")]
    #[doc(alias = "CLONE_PARENT")]
    pub fn own_peak(&mut self, own: bool) -> &mut Self {
        self.attributes_mut().own_peak = own;
        self
    }

    /// Keeps the child, and everything that it starts, from getting more rights by an exec of a
    /// program that is setuid, setgid or has capabilities.
    #[doc(alias = "PR_SET_NO_NEW_PRIVS")]
    pub fn no_new_privs(&mut self, set: bool) -> &mut Self {
        self.attributes_mut().conditions.no_new_privs = set;
        self
    }
}
