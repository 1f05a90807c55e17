//! The names of signals, and whether a signal ends a process by default. This file sends nothing:
//! everywhere else signals are plain `i32`s.
//!
//! The one rule: one table serves both directions, so every name that is given out is also
//! understood.

/// The platform's signals by name, without `SIG`. Where two names share a number, [`name`] gives
/// out the first.
const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("SYS", libc::SIGSYS),
    #[cfg(all(
        any(target_os = "linux", target_os = "android"),
        not(any(target_arch = "mips", target_arch = "mips64"))
    ))]
    ("STKFLT", libc::SIGSTKFLT),
    #[cfg(any(target_os = "linux", target_os = "android"))]
    ("PWR", libc::SIGPWR),
    #[cfg(any(target_os = "linux", target_os = "android"))]
    ("POLL", libc::SIGPOLL),
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    ("EMT", libc::SIGEMT),
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    ("INFO", libc::SIGINFO),
];

/// The signals with which programs are asked to end.
pub(crate) const ASK_TO_END: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// Returns the number of a signal by its name, with or without `SIG`, in upper or lower case. It
/// also accepts `RTMIN`, `RTMIN+3`, `RTMAX-1` (Linux) and plain numbers.
///
/// ```
/// use childminder::signal;
///
/// assert_eq!(signal::from_name("SIGTERM"), Some(15));
/// assert_eq!(signal::from_name("usr1"), signal::from_name("SIGUSR1"));
/// assert_eq!(signal::from_name("9"), Some(9));
/// assert_eq!(signal::from_name("NOPE"), None);
/// ```
#[must_use]
pub fn from_name(name: &str) -> Option<i32> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == short) {
        return Some(*number);
    }
    real_time(short).or_else(|| upper.parse().ok()).filter(|number| (1..=max()).contains(number))
}

/// Returns a signal's name with `SIG`, if it has one.
///
/// ```
/// assert_eq!(childminder::signal::name(9).as_deref(), Some("SIGKILL"));
/// assert_eq!(childminder::signal::name(0), None);
/// ```
#[must_use]
pub fn name(number: i32) -> Option<String> {
    if let Some((name, _)) = NAMES.iter().find(|(_, known)| *known == number) {
        return Some(format!("SIG{name}"));
    }
    #[cfg(target_os = "linux")]
    match number - libc::SIGRTMIN() {
        0 => return Some("SIGRTMIN".into()),
        offset if offset > 0 && number <= libc::SIGRTMAX() => return Some(format!("SIGRTMIN+{offset}")),
        _ => {}
    }
    None
}

/// Tells whether the signal's default action ends a process (`signal(7)`). It does not for signals
/// that stop or continue a process, or do nothing to it.
pub(crate) fn ends_by_default(number: i32) -> bool {
    const OTHERS: [i32; 8] = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    (1..=max()).contains(&number) && !OTHERS.contains(&number)
}

/// Returns the highest signal number of the platform.
pub(crate) fn max() -> i32 {
    #[cfg(target_os = "linux")]
    return libc::SIGRTMAX();
    #[cfg(not(target_os = "linux"))]
    return 31;
}

#[cfg(target_os = "linux")]
fn real_time(short: &str) -> Option<i32> {
    let (from, sign, rest) = match (short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
        (Some(rest), _) => (libc::SIGRTMIN(), '+', rest),
        (_, Some(rest)) => (libc::SIGRTMAX(), '-', rest),
        _ => return None,
    };
    let offset: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix(sign)?.parse::<u8>().ok()?.into() };
    let number = if sign == '+' { from + offset } else { from - offset };
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

#[cfg(not(target_os = "linux"))]
fn real_time(_: &str) -> Option<i32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back() {
        for (short, number) in NAMES {
            assert_eq!(from_name(short), Some(*number), "{short}");
            let full = name(*number).expect("a name");
            assert_eq!(from_name(&full), Some(*number), "{full}");
        }
        for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
            assert_eq!(name(number).and_then(|name| from_name(&name)), Some(number));
        }
    }

    #[test]
    fn refuses_what_is_no_signal() {
        for bad in ["", "SIG", "0", "-1", "65", "RTMIN+99", "RTMIN-1", "RTMAX+1", "TERM ", "32x"] {
            assert_eq!(from_name(bad), None, "{bad:?}");
        }
        let all = libc::SIGRTMAX() - libc::SIGRTMIN();
        assert_eq!(from_name(&format!("rtmax-{all}")), from_name("RTMIN"));
        assert_eq!(name(65), None);
        assert_eq!(name(-1), None);
    }
}
