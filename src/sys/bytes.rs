//! Searches bytes: with the C library, whose `memchr` is written for the processor at hand, or for
//! many matches at once. Copies and keeps nothing.
//!
//! The one rule: a pointer from C is only turned into an index, never read.

/// The index of the first `needle` in `haystack`.
pub(crate) fn find_byte(needle: u8, haystack: &[u8]) -> Option<usize> {
    // The pointer of an empty slice points to nothing, which C does not allow even then.
    if haystack.is_empty() {
        return None;
    }
    let start = haystack.as_ptr();
    // SAFETY: `start` is valid for reads of `haystack.len()` bytes, and `memchr` reads no further.
    let found = unsafe { libc::memchr(start.cast(), i32::from(needle), haystack.len()) };
    (!found.is_null()).then(|| found.addr() - start.addr())
}

/// The index of the first place of `needle` in `haystack`. An empty one is found at the start.
pub(crate) fn find(needle: &[u8], haystack: &[u8]) -> Option<usize> {
    let Some(first) = needle.first() else { return Some(0) };
    let mut start = 0;
    while haystack.len() - start >= needle.len() {
        let place = start + find_byte(*first, &haystack[start..=haystack.len() - needle.len()])?;
        if haystack[place..].starts_with(needle) {
            return Some(place);
        }
        start = place + 1;
    }
    None
}

/// Calls `each` with the index of every `needle` in `haystack`, in order. For many needles that are
/// close together, as newlines are, this is several times as fast as repeated searches.
#[inline]
pub(crate) fn each_byte(needle: u8, haystack: &[u8], each: impl FnMut(usize)) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the check above has shown that the processor has AVX2.
        return unsafe { avx2::each_byte(needle, haystack, each) };
    }
    one_by_one(needle, haystack, each);
}

/// [`each_byte`] for processors without AVX2, and for a short rest.
fn one_by_one(needle: u8, haystack: &[u8], mut each: impl FnMut(usize)) {
    let (mut start, mut rest) = (0, haystack);
    while let Some(index) = find_byte(needle, rest) {
        each(start + index);
        (start, rest) = (start + index + 1, &rest[index + 1..]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! Searches 64 bytes at once, on processors that have AVX2.

    #![allow(unused_unsafe)] // Rust 1.87 knows that those without a pointer are safe here

    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn each_byte(needle: u8, haystack: &[u8], mut each: impl FnMut(usize)) {
        // SAFETY: this intrinsic touches no memory.
        let needles = unsafe { _mm256_set1_epi8(needle as i8) };
        let (mut start, mut rest) = (0, haystack);
        while let Some(([low, high], after)) = first_two(rest) {
            // SAFETY: our caller guarantees AVX2.
            let low = unsafe { places(needles, low) };
            // SAFETY: our caller guarantees AVX2.
            let high = unsafe { places(needles, high) };
            // There is one bit for each byte, and the lowest bit stands for the first byte.
            let mut places = u64::from(high) << 32 | u64::from(low);
            while places != 0 {
                each(start + places.trailing_zeros() as usize);
                places &= places - 1;
            }
            (start, rest) = (start + 64, after);
        }
        super::one_by_one(needle, rest, |index| each(start + index));
    }

    /// The first two blocks of 32 bytes, and the rest.
    fn first_two(bytes: &[u8]) -> Option<([&[u8; 32]; 2], &[u8])> {
        let (low, rest) = bytes.split_first_chunk()?;
        let (high, rest) = rest.split_first_chunk()?;
        Some(([low, high], rest))
    }

    /// The places of the needle in 32 bytes, as one bit for each byte.
    #[target_feature(enable = "avx2")]
    unsafe fn places(needles: __m256i, bytes: &[u8; 32]) -> u32 {
        // SAFETY: the pointer is valid for 32 bytes, which need not be aligned for this intrinsic.
        let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        // SAFETY: this intrinsic touches no memory.
        let equal = unsafe { _mm256_cmpeq_epi8(bytes, needles) };
        // SAFETY: this intrinsic touches no memory.
        let bits = unsafe { _mm256_movemask_epi8(equal) };
        bits as u32
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
    fn finds_a_text_at_its_first_place() {
        let texts: [&[u8]; 8] = [b"", b"a", b"b", b"ab", b"aab", b"abaab", b"bb", b"abaabaabaabab"];
        for number in 0..1_u32 << 13 {
            let haystack: Vec<u8> =
                (0..number % 14).map(|bit| if number >> bit & 1 == 0 { b'a' } else { b'b' }).collect();
            for needle in texts {
                let right = (0..=haystack.len()).find(|start| haystack[*start..].starts_with(needle));
                assert_eq!(find(needle, &haystack), right, "{needle:?} in {haystack:?}");
            }
        }
    }

    #[test]
    fn finds_each_in_order() {
        let mut seed = 1_u32;
        for len in 0..300 {
            // The share of needles goes from all bytes to nearly none.
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
