//! Searching bytes with the C library, whose `memchr` is written for the processor at hand. Copies and
//! keeps nothing; a pointer from C is only turned into an index, never read.

/// The index of the first `needle` in `haystack`.
pub(crate) fn find_byte(needle: u8, haystack: &[u8]) -> Option<usize> {
    let start = haystack.as_ptr();
    // SAFETY: `start` is valid for reads of `haystack.len()` bytes, and `memchr` reads no further.
    let found = unsafe { libc::memchr(start.cast(), i32::from(needle), haystack.len()) };
    (!found.is_null()).then(|| found.addr() - start.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_position_finds() {
        for len in 0..70 {
            let mut bytes = vec![b'x'; len];
            assert_eq!(find_byte(0xff, &bytes), None);
            for at in (0..len).rev() {
                bytes[at] = 0xff;
                assert_eq!(find_byte(0xff, &bytes), Some(at));
                assert_eq!(find_byte(0xff, &bytes[..at]), None);
            }
        }
    }
}
