//! A datagram socket whose kernel says who has sent each message (Linux, `unix(7)`). Judges no
//! sender and reads no message.
//!
//! The one rule: a message is complete only if the kernel has shortened neither its text nor what
//! came along with it.

#[cfg(target_os = "linux")]
pub(crate) use linux::{credentials, receive};

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

    /// The number of descriptors that may come along with a message. If there are more, the kernel
    /// closes them and the message is not complete.
    const DESCRIPTORS: usize = 16;

    /// The room for control messages, aligned as their headers are.
    #[repr(C, align(8))]
    struct Control([u8; CONTROL]);

    const CONTROL: usize =
        space(size_of::<libc::ucred>()) + space(size_of::<RawFd>()) + space(DESCRIPTORS * size_of::<RawFd>());

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
        /// Whether the kernel has shortened nothing.
        pub(crate) complete: bool,
        /// The pid of the sender. It is `None` if the sender has no number in our PID namespace.
        pub(crate) pid: Option<i32>,
        /// A pidfd of the sender, where the kernel gives one.
        pub(crate) pidfd: Option<OwnedFd>,
        /// The descriptors that the sender has sent along.
        pub(crate) descriptors: Vec<OwnedFd>,
    }

    /// Makes the kernel name the sender of each message. Returns whether it also gives a pidfd of
    /// the sender.
    pub(crate) fn credentials(socket: BorrowedFd<'_>) -> io::Result<bool> {
        set(socket, libc::SO_PASSCRED)?;
        Ok(set(socket, SO_PASSPIDFD).is_ok())
    }

    fn set(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
        let on: libc::c_int = 1;
        #[allow(clippy::cast_possible_truncation)] // four bytes
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option reads one int, which lives through the call.
        cvt(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const on).cast(), len) })?;
        Ok(())
    }

    /// Receives a message without waiting. The error is `WouldBlock` if there is none.
    pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Message> {
        let mut control = Control([0; CONTROL]);
        let mut text = IoSliceMut::new(buffer);
        let mut header = MaybeUninit::<libc::msghdr>::zeroed();
        // SAFETY: a msghdr is plain data, for which zeros are valid.
        let header = unsafe { header.assume_init_mut() };
        // IoSliceMut has the layout of an iovec, as its documentation guarantees.
        header.msg_iov = (&raw mut text).cast();
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header leads to the buffer and the room for control messages, which both live
        // through the call.
        let len = cvt_retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut *header, flags) })?;
        let complete = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
        let len = usize::try_from(len).unwrap_or(0);
        let mut message = Message { len, complete, pid: None, pidfd: None, descriptors: Vec::new() };
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
            SCM_PIDFD if len >= size_of::<RawFd>() => message.pidfd = own(data.cast()),
            libc::SCM_RIGHTS => {
                let fds =
                    (0..len / size_of::<RawFd>()).filter_map(|index| own(data.cast::<RawFd>().wrapping_add(index)));
                message.descriptors.extend(fds);
            }
            _ => {}
        }
    }

    /// Takes a descriptor that came with a message. The kernel writes a negative number where it
    /// could not open one.
    fn own(place: *const RawFd) -> Option<OwnedFd> {
        // SAFETY: the caller has made sure that the kernel has written an int there.
        let number = unsafe { ptr::read_unaligned(place) };
        if number < 0 {
            return None;
        }
        // SAFETY: the kernel has just opened the descriptor for us.
        above_stdio(unsafe { OwnedFd::from_raw_fd(number) }).ok()
    }
}
