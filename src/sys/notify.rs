//! A datagram socket whose kernel says who has sent each message (Linux, `unix(7)`). Judges no
//! sender and reads no message.
//!
//! The one rule: no descriptor that comes with a message is ever received, because its close may
//! wait for its sender.

#[cfg(target_os = "linux")]
pub(crate) use linux::{credentials, drop_message, peek, receive, stop};

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, IoSliceMut};
    use std::mem::{MaybeUninit, size_of};
    use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
    use std::ptr;

    use super::super::fd::above_stdio;
    use super::super::{cvt, cvt_retry};

    /// The option to get a pidfd of each sender (Linux 6.5). The libc crate does not know it yet.
    #[cfg(not(any(target_arch = "sparc", target_arch = "sparc64")))]
    const SO_PASSPIDFD: libc::c_int = 76;
    #[cfg(any(target_arch = "sparc", target_arch = "sparc64"))]
    const SO_PASSPIDFD: libc::c_int = 0x55;
    /// The type of the control message that holds the pidfd.
    const SCM_PIDFD: libc::c_int = 4;

    /// The room for the credentials.
    const CREDENTIALS: usize = space(size_of::<libc::ucred>());
    /// The room for the credentials and a pidfd.
    const ALL: usize = CREDENTIALS + space(size_of::<RawFd>());

    /// The room for control messages, aligned as their headers are.
    #[repr(C, align(8))]
    struct Control([u8; ALL]);

    /// The room that a control message with so many bytes takes.
    const fn space(bytes: usize) -> usize {
        // SAFETY: CMSG_SPACE only computes. The number of bytes is small.
        #[allow(clippy::cast_possible_truncation)]
        let space = unsafe { libc::CMSG_SPACE(bytes as libc::c_uint) };
        space as usize
    }

    /// What came with a message.
    #[derive(Debug)]
    pub(crate) struct Message {
        /// The length of the text.
        pub(crate) len: usize,
        /// Whether the kernel has not shortened the text.
        pub(crate) complete: bool,
        /// Whether there was more than the credentials, and a pidfd if it was asked for.
        pub(crate) has_more: bool,
        /// The pid of the sender. It is `None` if the sender has no number in our PID namespace.
        pub(crate) pid: Option<i32>,
        /// A pidfd of the sender, where the kernel gives one.
        pub(crate) pidfd: Option<OwnedFd>,
    }

    /// Makes the kernel name the sender of each message. Returns whether it also gives a pidfd of
    /// the sender.
    pub(crate) fn credentials(socket: BorrowedFd<'_>) -> io::Result<bool> {
        set(socket, libc::SO_PASSCRED, 1)?;
        Ok(set(socket, SO_PASSPIDFD, 1).is_ok())
    }

    fn set(socket: BorrowedFd<'_>, option: libc::c_int, on: libc::c_int) -> io::Result<()> {
        #[allow(clippy::cast_possible_truncation)] // four bytes
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option reads one int, which lives through the call.
        cvt(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const on).cast(), len) })?;
        Ok(())
    }

    /// Lets no further message in. The ones that have come can still be read.
    pub(crate) fn stop(socket: BorrowedFd<'_>) {
        // SAFETY: shutdown touches no memory.
        unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RD) };
    }

    /// Looks at a message without waiting, and leaves it in the queue. The error is `WouldBlock` if
    /// there is none.
    ///
    /// The kernel cannot hand over any descriptor, because there is no room for one. So it reports
    /// that it has left something out if and only if there are some.
    pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8], pidfds: bool) -> io::Result<Message> {
        if pidfds {
            set(socket, SO_PASSPIDFD, 0)?;
        }
        let message = receive_with(socket, buffer, CREDENTIALS, libc::MSG_PEEK);
        if pidfds {
            set(socket, SO_PASSPIDFD, 1)?;
        }
        message
    }

    /// Receives a message that comes without descriptors. The error is `WouldBlock` if there is
    /// none.
    pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Message> {
        receive_with(socket, buffer, ALL, 0)
    }

    /// Takes a message out of the queue without waiting for one. There is no room for what comes
    /// with it, so the kernel closes the descriptors, which may wait.
    pub(crate) fn drop_message(socket: BorrowedFd<'_>) {
        let _ = receive_with(socket, &mut [0], 0, 0);
    }

    fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], room: usize, flags: i32) -> io::Result<Message> {
        let mut control = Control([0; ALL]);
        let mut text = IoSliceMut::new(buffer);
        let mut header = MaybeUninit::<libc::msghdr>::zeroed();
        // SAFETY: a msghdr is plain data, for which zeros are valid.
        let header = unsafe { header.assume_init_mut() };
        // IoSliceMut has the layout of an iovec, as its documentation guarantees.
        header.msg_iov = (&raw mut text).cast();
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = room as _;
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header leads to the buffer and the room for control messages, which both live
        // through the call.
        let len = cvt_retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut *header, flags) })?;
        let is_set = |flag| header.msg_flags & flag != 0;
        let (complete, has_more) = (!is_set(libc::MSG_TRUNC), is_set(libc::MSG_CTRUNC));
        let len = usize::try_from(len).unwrap_or(0);
        let mut message = Message { len, complete, has_more, pid: None, pidfd: None };
        // SAFETY: the kernel has filled in the header.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: the pointer leads to a control message that the kernel has written.
            let one = unsafe { ptr::read_unaligned(next) };
            // SAFETY: the same holds here, and the data follows the header.
            let data = unsafe { libc::CMSG_DATA(next) };
            if one.cmsg_level == libc::SOL_SOCKET {
                note(&mut message, &one, data);
            }
            // SAFETY: both pointers are those of the received header.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        Ok(message)
    }

    /// Notes a control message. `data` leads to its data.
    fn note(message: &mut Message, header: &libc::cmsghdr, data: *const u8) {
        // SAFETY: CMSG_LEN only computes.
        let before = unsafe { libc::CMSG_LEN(0) } as usize;
        #[allow(clippy::unnecessary_cast)] // its type differs between C libraries
        let len = (header.cmsg_len as usize).saturating_sub(before);
        match header.cmsg_type {
            libc::SCM_CREDENTIALS if len >= size_of::<libc::ucred>() => {
                // SAFETY: the kernel has written a ucred there.
                let sender = unsafe { ptr::read_unaligned(data.cast::<libc::ucred>()) };
                message.pid = Some(sender.pid).filter(|pid| *pid > 0);
            }
            SCM_PIDFD if len >= size_of::<RawFd>() => {
                // SAFETY: the kernel has written an int there.
                let number = unsafe { ptr::read_unaligned(data.cast::<RawFd>()) };
                // The number is negative if the kernel could not open one.
                if number >= 0 {
                    // SAFETY: the kernel has just opened the descriptor for us.
                    message.pidfd = above_stdio(unsafe { OwnedFd::from_raw_fd(number) }).ok();
                }
            }
            _ => {}
        }
    }
}
