//! Makes system calls fail with a chosen error, to test fallbacks that no real limit triggers.
//!
//! The one rule: a filter applies to the thread that asks for it and to all processes that it
//! starts, and is never removed.

#![allow(unsafe_code)]

/// A system call, the argument that it must have (index and value) if only that case is refused,
/// and the errno.
pub(crate) type Refused = (libc::c_long, Option<(u32, u32)>, i32);

/// Makes these calls fail in this thread and its children, as container runtimes do.
pub(crate) fn refuse(calls: &[Refused]) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless =
        |k: u32, jf: u8| libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf, k };
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let mut filter = Vec::new();
    for (call, argument, errno) in calls {
        // In the data of the filter, the number of the call comes first, and the arguments start at
        // 16 (on a little-endian machine).
        filter.push(load(0));
        filter.push(unless(*call as u32, if argument.is_some() { 3 } else { 1 }));
        if let Some((index, value)) = argument {
            filter.push(load(16 + 8 * index));
            filter.push(unless(*value, 1));
        }
        filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | *errno as u32));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: prctl touches no memory here.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program lives through the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0);
}
