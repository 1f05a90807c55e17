//! Tells the service manager that has started this program how the program is, by systemd's
//! protocol (`sd_notify(3)`).
//!
//! It keeps nothing open. The one rule: no call here waits.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use crate::sys;

/// Tells the state of this program to the service manager that has started it, such as `READY=1`,
/// `STATUS=12 of 14 processes run`, `STOPPING=1` or `WATCHDOG=1`. Several lines are one message.
///
/// The manager's socket is named by the variable `NOTIFY_SOCKET`. Returns `false` if that is not
/// set. The variable stays set, so a host that starts other programs removes it from their
/// environments.
///
/// # Errors
///
/// `WouldBlock` if the queue of the manager is full. `InvalidInput` if the variable is no address
/// of a Unix socket. Otherwise the error of `sendto(2)`, such as `NotFound` or `ConnectionRefused`
/// if the manager is gone.
///
/// ```
/// use childminder::notify_parent;
///
/// if notify_parent("READY=1\nSTATUS=waiting for requests")? {
///     println!("my service manager knows");
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "sd_notify")]
#[doc(alias = "NOTIFY_SOCKET")]
pub fn notify_parent(state: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(address) => tell(&address, state.as_bytes()).map(|()| true),
        None => Ok(false),
    }
}

/// Returns how often the service manager that has started this program wants a sign of life
/// (`notify_parent("WATCHDOG=1")`), if it wants any. It ends a program that gives none for this
/// time, so half of it is a good pause.
///
/// It is read from the variables `WATCHDOG_USEC` and `WATCHDOG_PID`. The second names the program
/// that is meant.
///
/// ```
/// if let Some(within) = childminder::parent_watchdog() {
///     println!("a sign of life is wanted every {:?}", within / 2);
/// }
/// ```
#[doc(alias = "sd_watchdog_enabled")]
#[doc(alias = "WATCHDOG_USEC")]
#[must_use]
pub fn parent_watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).map(|value| value.parse::<u64>().ok());
    let is_meant = match number("WATCHDOG_PID") {
        Ok(pid) => pid == Some(std::process::id().into()),
        Err(std::env::VarError::NotPresent) => true,
        Err(_) => false,
    };
    let within = number("WATCHDOG_USEC").ok().flatten().filter(|microseconds| *microseconds > 0);
    within.filter(|_| is_meant).map(Duration::from_micros)
}

fn tell(address: &OsStr, state: &[u8]) -> io::Result<()> {
    let socket = sys::fd::above_stdio(OwnedFd::from(UnixDatagram::unbound()?))?;
    let socket = UnixDatagram::from(socket);
    socket.set_nonblocking(true)?;
    let sent = match address.as_bytes() {
        [b'/', ..] => socket.send_to(state, Path::new(address))?,
        [b'@', name @ ..] if !name.is_empty() => send_to_abstract(&socket, name, state)?,
        _ => {
            let what = format!("NOTIFY_SOCKET is {address:?}, which is no address of a Unix socket");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    };
    debug_assert_eq!(sent, state.len(), "a datagram is sent as a whole");
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn send_to_abstract(socket: &UnixDatagram, name: &[u8], state: &[u8]) -> io::Result<usize> {
    #[cfg(target_os = "android")]
    use std::os::android::net::SocketAddrExt;
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    socket.send_to_addr(state, &SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn send_to_abstract(_: &UnixDatagram, _: &[u8], _: &[u8]) -> io::Result<usize> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has abstract addresses of sockets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_socket_in_the_file_system() {
        let folder = std::env::temp_dir().join(format!("childminder-parent-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("notify");
        let parent = UnixDatagram::bind(&path).unwrap();
        tell(path.as_os_str(), b"READY=1\nSTATUS=up").unwrap();
        let mut buffer = [0; 100];
        let len = parent.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"READY=1\nSTATUS=up");
        // It has no reader.
        let full = (0..10_000).find_map(|_| tell(path.as_os_str(), b"WATCHDOG=1").err());
        assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        drop(parent);
        let gone = tell(path.as_os_str(), b"READY=1").unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(tell(path.as_os_str(), b"READY=1").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn refuses_what_is_no_address() {
        for address in ["", "@", "notify", "vsock:2:1234", "unix:/run/notify"] {
            let error = tell(address.as_ref(), b"READY=1").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{address}");
            assert!(error.to_string().contains(&format!("NOTIFY_SOCKET is {address:?}")), "{error}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn tells_an_abstract_socket() {
        use crate::notify::NotifySocket;

        let parent = NotifySocket::open().unwrap();
        tell(parent.address(), b"READY=1").unwrap();
        let mut buffer = [0; 100];
        let message = parent.receive(&mut buffer).unwrap().unwrap();
        assert_eq!((message.text, message.pid), (&b"READY=1"[..], i32::try_from(std::process::id()).ok()));
        assert!(message.complete);
        assert!(parent.receive(&mut [0; 100]).unwrap().is_none());
    }
}
