//! Locks that are gone with the process that holds them, and that no other user can hold against us.
//!
//! On Linux a lock is a socket with a name in the abstract namespace, so it leaves no file that
//! somebody could remove. Elsewhere there are none. The one rule: a lock that a stranger holds is no lock,
//! so the holder is asked who it is.

use std::path::Path;

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    #[cfg(target_os = "linux")]
    _listener: std::os::unix::net::UnixListener,
}

/// Another process of this user, or of root, holds the lock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its pid, where the kernel tells it: not across pid namespaces.
    pub(crate) pid: Option<i32>,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "another instance is running, pid {pid}"),
            None => f.write_str("another instance is running"),
        }
    }
}

/// Takes the lock on what is meant by `purpose` and this path, which should have no links in it. `None`
/// where there are no locks, or where a stranger has taken the name.
#[cfg(not(target_os = "linux"))]
pub(crate) fn take(_: &str, _: &Path) -> Result<Option<Lock>, Held> {
    Ok(None)
}

#[cfg(target_os = "linux")]
pub(crate) fn take(purpose: &str, path: &Path) -> Result<Option<Lock>, Held> {
    use std::io::ErrorKind;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use super::socket;

    /// Somebody may hold the name and not listen yet, or listen no more and still hold it.
    const ATTEMPTS: usize = 100;

    let name = format!("childminder-{purpose}-{:016x}", hash(path.as_os_str().as_encoded_bytes()));
    let Ok(address) = SocketAddr::from_abstract_name(name) else { return Ok(None) };
    for _ in 0..ATTEMPTS {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(Some(Lock { _listener: listener })),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(_) => return Ok(None),
        }
        match UnixStream::connect_addr(&address) {
            Ok(holder) if socket::is_peer_allowed(&holder) => return Err(Held { pid: socket::peer_pid(&holder) }),
            Ok(_) => return Ok(None),
            Err(_) => socket::pause(),
        }
    }
    Ok(None)
}

/// FNV-1a: the same in every version of the program, which a `Hasher` of std is not.
#[cfg(target_os = "linux")]
fn hash(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_until_it_is_gone() {
        let path = std::env::temp_dir().join(format!("childminder-lock-{}", std::process::id()));
        let own = i32::try_from(std::process::id()).ok();
        let lock = take("test", &path).unwrap();
        assert!(lock.is_some());
        assert_eq!(take("test", &path).unwrap_err(), Held { pid: own });
        assert!(take("other", &path).unwrap().is_some(), "for another purpose");
        assert!(take("test", &path.with_extension("x")).unwrap().is_some(), "for another file");
        drop(lock);
        assert!(take("test", &path).unwrap().is_some());
    }

    #[test]
    fn a_hash_is_the_same_for_ever() {
        // The published test values of FNV-1a.
        assert_eq!([&b""[..], b"a", b"foobar"].map(hash), [0xcbf29ce484222325, 0xaf63dc4c8601ec8c, 0x85944171f73967e8]);
    }
}
