//! Reads which processors the kernel lets this thread use. Changes nothing.
//!
//! The one rule: the mask is read at any size that the kernel has, and never cut.

use std::io;

/// The numbers of the processors that this thread may use, in ascending order.
#[cfg(target_os = "linux")]
#[doc(alias = "sched_getaffinity")]
pub(crate) fn own() -> io::Result<Vec<u32>> {
    let mut mask = vec![0_u8; 128];
    loop {
        // SAFETY: the mask has so many bytes.
        let read = super::cvt(unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, mask.len(), mask.as_mut_ptr()) });
        match read {
            Ok(read) => {
                mask.truncate(usize::try_from(read).unwrap_or(0));
                return Ok(numbers_of(&mask));
            }
            // The kernel has more processors.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && mask.len() < 1 << 16 => {
                mask = vec![0; 2 * mask.len()];
            }
            Err(error) => return Err(error),
        }
    }
}

/// Fails, because only Linux tells.
#[cfg(not(target_os = "linux"))]
pub(crate) fn own() -> io::Result<Vec<u32>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The numbers in a mask. The kernel's masks are arrays of longs.
#[cfg(target_os = "linux")]
fn numbers_of(mask: &[u8]) -> Vec<u32> {
    let longs = mask.chunks_exact(size_of::<libc::c_ulong>()).map(|chunk| {
        let mut bytes = [0; size_of::<libc::c_ulong>()];
        bytes.copy_from_slice(chunk);
        libc::c_ulong::from_ne_bytes(bytes)
    });
    let bits = longs.zip(0..).flat_map(|(long, index)| {
        (0..libc::c_ulong::BITS)
            .filter(move |bit| long >> bit & 1 == 1)
            .map(move |bit| index * libc::c_ulong::BITS + bit)
    });
    bits.collect()
}

/// The mask of a set of numbers, in the kernel's form.
#[cfg(target_os = "linux")]
pub(super) fn mask_of(numbers: impl Iterator<Item = u32>) -> Vec<libc::c_ulong> {
    let mut mask = Vec::new();
    for number in numbers {
        let index = (number / libc::c_ulong::BITS) as usize;
        if mask.len() <= index {
            mask.resize(index + 1, 0);
        }
        mask[index] |= 1 << (number % libc::c_ulong::BITS);
    }
    mask
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn masks_are_what_the_kernel_takes() {
        let numbers = [0, 5, 63, 64, 65, 200];
        let mask = mask_of(numbers.into_iter());
        let bytes: Vec<u8> = mask.iter().flat_map(|long| long.to_ne_bytes()).collect();
        assert_eq!(numbers_of(&bytes), numbers);
        assert!(!own().unwrap().is_empty());
    }
}
