//! Searching bytes: with the C library, whose `memchr` is written for the processor at hand, or many at once. Copies and keeps
//! nothing; a pointer from C is only turned into an index, never read.

/// The index of the first `needle` in `haystack`.
pub(crate) fn find_byte(needle: u8, haystack: &[u8]) -> Option<usize> {
    let start = haystack.as_ptr();
    // SAFETY: `start` is valid for reads of `haystack.len()` bytes, and `memchr` reads no further.
    let found = unsafe { libc::memchr(start.cast(), i32::from(needle), haystack.len()) };
    (!found.is_null()).then(|| found.addr() - start.addr())
}

/// Calls `each` with the index of every `needle` in `haystack`, in order. Where they are many and close together, as newlines are,
/// this is several times as fast as one search after another.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn each_byte(needle: u8, haystack: &[u8], mut each: impl FnMut(usize)) {
    let (mut start, mut rest) = (0, haystack);
    while let Some((block, after)) = rest.split_first_chunk() {
        let mut places = sse2::places(needle, block);
        while places != 0 {
            each(start + places.trailing_zeros() as usize);
            places &= places - 1;
        }
        (start, rest) = (start + block.len(), after);
    }
    one_by_one(needle, rest, |index| each(start + index));
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use one_by_one as each_byte;

/// [`each_byte`] for every processor, and for few bytes.
fn one_by_one(needle: u8, haystack: &[u8], mut each: impl FnMut(usize)) {
    let (mut start, mut rest) = (0, haystack);
    while let Some(index) = find_byte(needle, rest) {
        each(start + index);
        (start, rest) = (start + index + 1, &rest[index + 1..]);
    }
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    //! SSE2, which every x86-64 has.

    use std::arch::x86_64::*;

    /// Where in the block the needle is, the first byte being the lowest bit.
    #[inline]
    pub(super) fn places(needle: u8, block: &[u8; 64]) -> u64 {
        let quarters = [0, 16, 32, 48].map(|at| equal(needle, &block[at..at + 16]));
        // Most blocks of long lines have none.
        if bits(either(either(quarters[0], quarters[1]), either(quarters[2], quarters[3]))) == 0 {
            return 0;
        }
        quarters.iter().rev().fold(0, |places, quarter| places << 16 | u64::from(bits(*quarter)))
    }

    /// All ones for each byte that is the needle.
    #[inline]
    fn equal(needle: u8, bytes: &[u8]) -> __m128i {
        debug_assert_eq!(bytes.len(), size_of::<__m128i>());
        // SAFETY: `bytes` are 16, and need not be aligned for this.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        // SAFETY: touches no memory.
        let needles = unsafe { _mm_set1_epi8(needle as i8) };
        // SAFETY: touches no memory.
        unsafe { _mm_cmpeq_epi8(bytes, needles) }
    }

    #[inline]
    fn either(one: __m128i, other: __m128i) -> __m128i {
        // SAFETY: touches no memory.
        unsafe { _mm_or_si128(one, other) }
    }

    /// The highest bit of each byte.
    #[inline]
    fn bits(bytes: __m128i) -> u16 {
        // SAFETY: touches no memory.
        let bits = unsafe { _mm_movemask_epi8(bytes) };
        bits as u16
    }
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

    #[test]
    fn finds_each_in_order() {
        let mut seed = 1_u32;
        for len in 0..300 {
            // From all to nearly none.
            for often in [1, 2, 100, 1 << 30] {
                let mut random = |below: u32| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 2) % below
                };
                let bytes: Vec<u8> = (0..len).map(|_| if random(often) == 0 { b'\n' } else { b'\x8a' }).collect();
                let expected: Vec<usize> = (0..len).filter(|index| bytes[*index] == b'\n').collect();
                let (mut found, mut slowly) = (Vec::new(), Vec::new());
                each_byte(b'\n', &bytes, |index| found.push(index));
                one_by_one(b'\n', &bytes, |index| slowly.push(index));
                assert_eq!((&found, &slowly), (&expected, &expected));
            }
        }
    }
}
