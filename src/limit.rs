//! Resource limits by name. This file sets none; `sys` does.
//!
//! The one rule: every resource stands once, in one table, and a platform has only the entries that
//! it knows.

/// A soft and a hard resource limit, in the resource's own unit. `None` means no limit
/// (`RLIM_INFINITY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // it is POSIX's rlimit
pub struct Limit {
    /// The limit in force.
    pub soft: Option<u64>,
    /// The highest value to which the soft limit can be raised without privilege.
    pub hard: Option<u64>,
}

macro_rules! resources {
    ($($(#[$attr:meta])* $variant:ident = $constant:ident, $name:literal;)*) => {
        /// A resource that can be limited. `setrlimit(2)` says what each one means, and its unit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Resource {
            $($(#[$attr])* #[doc = concat!("`", stringify!($constant), "`")] $variant,)*
        }

        impl Resource {
            /// All resources of this platform.
            pub const ALL: &[Self] = &[$($(#[$attr])* Self::$variant,)*];

            /// Returns the short name, such as `nofile` for `RLIMIT_NOFILE`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($(#[$attr])* Self::$variant => $name,)* }
            }

            #[allow(clippy::unnecessary_cast)] // c_int or c_uint, by the libc
            pub(crate) fn raw(self) -> i32 {
                match self { $($(#[$attr])* Self::$variant => libc::$constant as i32,)* }
            }
        }
    };
}

resources! {
    #[cfg(not(target_os = "openbsd"))] AddressSpace = RLIMIT_AS, "as";
    Core = RLIMIT_CORE, "core";
    Cpu = RLIMIT_CPU, "cpu";
    Data = RLIMIT_DATA, "data";
    FileSize = RLIMIT_FSIZE, "fsize";
    #[cfg(target_os = "linux")] Locks = RLIMIT_LOCKS, "locks";
    #[cfg(not(any(target_os = "illumos", target_os = "solaris")))] Memlock = RLIMIT_MEMLOCK, "memlock";
    #[cfg(target_os = "linux")] MessageQueues = RLIMIT_MSGQUEUE, "msgqueue";
    #[cfg(target_os = "linux")] Nice = RLIMIT_NICE, "nice";
    OpenFiles = RLIMIT_NOFILE, "nofile";
    #[cfg(not(any(target_os = "illumos", target_os = "solaris")))] Processes = RLIMIT_NPROC, "nproc";
    #[cfg(not(any(target_os = "illumos", target_os = "solaris")))] ResidentSet = RLIMIT_RSS, "rss";
    #[cfg(target_os = "linux")] RealTimePriority = RLIMIT_RTPRIO, "rtprio";
    #[cfg(target_os = "linux")] RealTimeCpu = RLIMIT_RTTIME, "rttime";
    #[cfg(target_os = "linux")] PendingSignals = RLIMIT_SIGPENDING, "sigpending";
    Stack = RLIMIT_STACK, "stack";
}
