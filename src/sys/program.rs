//! Programs of a few hundred bytes that are made in memory. Runs none of them.
//!
//! The one rule: the file of a program cannot be changed once it is made.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{cvt, fd};

/// The number of this architecture in an ELF file, and the code of these instructions, which must
/// be able to run at any address. Labels from 30 to 49 are free.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
macro_rules! code {
    ($($line:literal),* $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the jump skips the code, and only its addresses are used.
        unsafe {
            std::arch::asm!(
                "lea {start}, [rip + 20f]",
                "lea {end}, [rip + 29f]",
                "jmp 29f",
                "20:",
                $($line,)*
                "29:",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack, preserves_flags),
            );
        }
        // SAFETY: the bytes between the two labels are the code, which never changes.
        Some((62, unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }))
    }};
}

/// The same as on x86-64.
#[cfg(all(target_arch = "aarch64", target_pointer_width = "64"))]
macro_rules! code {
    ($($line:literal),* $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the jump skips the code, and only its addresses are used.
        unsafe {
            std::arch::asm!(
                "adr {start}, 20f",
                "adr {end}, 29f",
                "b 29f",
                "20:",
                $($line,)*
                "29:",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack, preserves_flags),
            );
        }
        // SAFETY: the bytes between the two labels are the code, which never changes.
        Some((183, unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }))
    }};
}

#[cfg(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64")
))]
pub(super) use code;

/// Makes a program of this code, or fails if there is no code for this architecture. `code` has the
/// number of the architecture in an ELF file, and instructions that can run at any address.
pub(super) fn make(name: &CStr, code: Option<(u16, &[u8])>) -> io::Result<OwnedFd> {
    /// The flag exists since Linux 6.3, and a system may require it.
    const MFD_EXEC: libc::c_uint = 0x10;
    let (machine, code) = code.ok_or(io::ErrorKind::Unsupported)?;
    let image = image(machine, code);
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags: libc::c_uint| {
        // SAFETY: the name is a C string that lives through the call.
        cvt(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) })
    };
    let created = create(flags | MFD_EXEC).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => create(flags),
        _ => Err(error),
    })?;
    #[allow(clippy::cast_possible_truncation)] // a descriptor is an int
    // SAFETY: memfd_create has just opened the descriptor for us.
    let mut file = unsafe { File::from_raw_fd(created as RawFd) };
    file.write_all(&image)?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an int.
    cvt(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    fd::above_stdio(file.into())
}

/// An ELF file (`elf(5)`) that contains the code and nothing else.
fn image(machine: u16, code: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 64 + 2 * 56;
    const ADDRESS: u64 = 0x40_0000;
    let size = (HEADERS + code.len()) as u64;
    let mut image = Vec::with_capacity(HEADERS + code.len());
    let mut put = |bytes: &[u8]| image.extend_from_slice(bytes);
    // This header is for 64 bits, the byte order of this machine, and an executable.
    put(&[0x7f, b'E', b'L', b'F', 2, if cfg!(target_endian = "little") { 1 } else { 2 }, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for half in [2_u16, machine] {
        put(&half.to_ne_bytes());
    }
    put(&1_u32.to_ne_bytes());
    for word in [ADDRESS + HEADERS as u64, 64, 0] {
        put(&word.to_ne_bytes());
    }
    put(&0_u32.to_ne_bytes());
    // These are the sizes and numbers of headers: two of segments, none of sections.
    for half in [64_u16, 56, 2, 64, 0, 0] {
        put(&half.to_ne_bytes());
    }
    // The first segment loads the whole file, to be read and executed. The second says that the
    // stack is not executable (PT_LOAD, PT_GNU_STACK).
    for (kind, flags, address, size, align) in [(1_u32, 5_u32, ADDRESS, size, 0x1_0000_u64), (0x6474_e551, 6, 0, 0, 16)]
    {
        put(&kind.to_ne_bytes());
        put(&flags.to_ne_bytes());
        for word in [0, address, address, size, size, align] {
            put(&word.to_ne_bytes());
        }
    }
    put(code);
    image
}
