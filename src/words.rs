//! The words of a command line, one after another in one allocation.
//!
//! It does not look into the words. The one rule: any bytes are a word, so that a command is kept
//! as it was given, even if the spawn refuses it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// The bits of a length that one byte holds. Its highest bit tells that more follow.
const BITS: u32 = 7;
const MORE: u8 = 1 << BITS;

/// The words, each after its length. Most words are so short that a length takes one byte, and a
/// string of its own would take 48 bytes more.
#[derive(Clone, Default)]
pub(crate) struct Words(Vec<u8>);

impl Words {
    pub(crate) fn push(&mut self, word: &OsStr) {
        let mut rest = word.len();
        while rest >= usize::from(MORE) {
            self.0.push(rest as u8 | MORE);
            rest >>= BITS;
        }
        self.0.push(rest as u8);
        self.0.extend_from_slice(word.as_bytes());
    }

    /// Adds words, and takes no more room than they need.
    pub(crate) fn extend(&mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        words.into_iter().for_each(|word| self.push(word.as_ref()));
        self.0.shrink_to_fit();
    }

    pub(crate) fn iter(&self) -> Iter<'_> {
        Iter(&self.0)
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The words from one on.
#[derive(Clone)]
pub(crate) struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = &'a OsStr;

    fn next(&mut self) -> Option<&'a OsStr> {
        let bytes = self.0.iter().position(|byte| byte & MORE == 0)? + 1;
        let (length, rest) = self.0.split_at(bytes);
        let length = length.iter().rev().fold(0, |length, byte| length << BITS | usize::from(byte & !MORE));
        let (word, rest) = rest.split_at(length);
        self.0 = rest;
        Some(OsStr::from_bytes(word))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.clone().fold(0, |count, _| count + 1);
        (count, Some(count))
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_words_come_back_as_they_were_given() {
        let long = |length: usize| vec![b'x'; length];
        let words = [&b""[..], b"a", b"\0", b"\x80\xff", &long(127), &long(128), &long(16_383), &long(16_384), b""];
        let words = words.map(OsStr::from_bytes);
        let mut all = Words::default();
        assert_eq!(all.iter().next(), None);
        all.push(words[0]);
        all.extend(&words[1..]);
        assert_eq!(all.iter().collect::<Vec<_>>(), words);
        assert_eq!(all.iter().len(), words.len());
        assert_eq!(all.iter().skip(1).len(), words.len() - 1);
        assert_eq!(
            format!("{:?}", {
                let mut one = Words::default();
                one.push("a b".as_ref());
                one
            }),
            r#"["a b"]"#
        );
    }
}
