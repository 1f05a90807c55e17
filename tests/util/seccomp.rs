//! System calls that fail by order: the ways out that no honest limit leads to.
//!
//! The one rule: a filter is for the thread that asks for it and for all that it starts, and is never taken back.

#![allow(unsafe_code)]

/// A call, the value of one of its arguments if only that is meant (its index comes first), and the errno.
pub(crate) type Refused = (libc::c_long, Option<(u32, u32)>, i32);

/// Has this thread and its children refuse these calls, as container runtimes do.
pub(crate) fn refuse(calls: &[Refused]) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless =
        |k: u32, jf: u8| libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf, k };
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let mut filter = Vec::new();
    for (call, argument, errno) in calls {
        // The number of the call comes first in what the filter sees, the arguments (here of a little-endian machine) from 16 on.
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
    // SAFETY: touches no memory.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program lives through the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0);
}
