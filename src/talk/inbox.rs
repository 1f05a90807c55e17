//! What has come from one of a process's descriptors and was not taken yet.
//!
//! It does no I/O and waits for nothing. The one rule: what is found does not depend on where the
//! stream was split on its way.

use std::task::Poll;

use super::plain::Plain;
use crate::sys::bytes::find;

/// The number of taken bytes above which the rest is moved to the front.
const COMPACT: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// How many of `bytes` were taken.
    taken: usize,
    /// How many bytes of the stream were before `bytes`.
    before: u64,
    /// The number of processes that can still write here.
    pub(super) writers: usize,
    /// Whether the writers have to wait until something is taken.
    pub(super) paused: bool,
    /// The filter of what comes, if there is one.
    pub(super) plain: Option<Plain>,
    searched: Searched,
}

/// The last search, which goes on when more has come.
#[derive(Debug, Default)]
struct Searched {
    wanted: Vec<Vec<u8>>,
    /// The number of bytes of the stream that were searched.
    until: u64,
}

/// The place of a text that was found: which one it was, and where it starts and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Inbox {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.taken == self.bytes.len() || self.taken > COMPACT && self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.before += self.taken as u64;
            self.taken = 0;
            // The memory of a flood is given back.
            self.bytes.shrink_to((2 * self.bytes.len()).max(COMPACT));
        }
        match &mut self.plain {
            Some(plain) => plain.push(bytes, &mut self.bytes),
            None => self.bytes.extend_from_slice(bytes),
        }
    }

    /// Adds what the filter has kept back.
    pub(super) fn finish(&mut self) {
        if let Some(plain) = &mut self.plain {
            plain.finish(&mut self.bytes);
        }
    }

    /// The end of what was not taken yet, at most so many bytes of it, with what the filter keeps
    /// back.
    pub(super) fn tail(&self, most: usize) -> Vec<u8> {
        let unread = self.unread();
        let held = self.plain.as_ref().map_or(&[][..], Plain::held);
        [&unread[unread.len().saturating_sub(most)..], held].concat()
    }

    /// What was not taken yet.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Takes the next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = match (self.taken, count == self.bytes.len()) {
            (0, true) => {
                self.before += count as u64;
                return std::mem::take(&mut self.bytes);
            }
            _ => self.unread()[..count].to_vec(),
        };
        self.skip(count);
        taken
    }

    /// Drops the next `count` bytes.
    pub(super) fn skip(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.bytes.len() {
            self.before += self.taken as u64;
            (self.bytes, self.taken) = (Vec::new(), 0);
        }
    }

    /// Looks for the text that is complete first. Of several that are complete at the same byte,
    /// the first one in the list counts. `None` if none of them can come, because the stream has
    /// ended, or because the writers wait until something is taken.
    pub(super) fn find(&mut self, wanted: &[&[u8]]) -> Poll<Option<Place>> {
        if self.searched.wanted != wanted {
            self.searched = Searched { wanted: wanted.iter().map(|text| text.to_vec()).collect(), until: 0 };
        }
        let unread = &self.bytes[self.taken..];
        let position = self.before + self.taken as u64;
        // Bytes that were searched before may belong to a text that is complete only now.
        let longest = wanted.iter().map(|text| text.len()).max().unwrap_or_default();
        let from = self.searched.until.saturating_sub(position).saturating_sub(longest.saturating_sub(1) as u64);
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(unread.len());
        let places = wanted.iter().enumerate().filter_map(|(index, text)| {
            let start = from + find(text, &unread[from..])?;
            Some(Place { index, start, end: start + text.len() })
        });
        let found = places.min_by_key(|place| (place.end, place.index));
        if found.is_none() {
            self.searched.until = position + unread.len() as u64;
        }
        match found {
            Some(place) => Poll::Ready(Some(place)),
            None if self.writers == 0 || self.paused => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(index: usize, start: usize, end: usize) -> Poll<Option<Place>> {
        Poll::Ready(Some(Place { index, start, end }))
    }

    #[test]
    fn the_text_that_is_complete_first_is_found_however_the_stream_is_split() {
        let text = b"aab abcd aa";
        let wanted: [&[&[u8]]; 5] = [&[b"abcd", b"bc"], &[b"bc", b"abcd"], &[b"aa", b"a"], &[b"b a"], &[b"d", b"cd"]];
        let right = [place(1, 5, 7), place(0, 5, 7), place(1, 0, 1), place(0, 2, 5), place(0, 7, 8)];
        for (wanted, right) in wanted.iter().zip(right) {
            for split in 1..=text.len() {
                let mut inbox = Inbox { writers: 1, ..Inbox::default() };
                let found = text.chunks(split).find_map(|piece| {
                    inbox.push(piece);
                    Some(inbox.find(wanted)).filter(|found| found.is_ready())
                });
                assert_eq!(found, Some(right), "{wanted:?} in pieces of {split}");
            }
        }
    }

    #[test]
    fn what_another_reader_takes_is_searched_no_more() {
        let mut inbox = Inbox { writers: 1, ..Inbox::default() };
        inbox.push(b"one tw");
        assert_eq!(inbox.find(&[b"two"]), Poll::Pending);
        assert_eq!(inbox.take(5), b"one t");
        inbox.push(b"o two");
        assert_eq!(inbox.find(&[b"two"]), place(0, 3, 6));
    }

    #[test]
    fn an_ended_stream_has_nothing_more() {
        let mut inbox = Inbox::default();
        inbox.push(b"rest");
        assert_eq!(inbox.find(&[b"x"]), Poll::Ready(None));
        assert_eq!(inbox.find(&[]), Poll::Ready(None));
        assert_eq!(inbox.find(&[b""]), place(0, 0, 0));
        assert_eq!((inbox.take(4), inbox.unread()), (b"rest".to_vec(), &b""[..]));
    }

    #[test]
    fn many_pieces_are_kept_in_the_memory_of_what_is_unread() {
        let mut inbox = Inbox::default();
        for round in 0..10_000_u32 {
            inbox.push(&[b'x'; 1000]);
            inbox.push(&round.to_le_bytes());
            inbox.skip(1000);
            assert_eq!(inbox.take(4), round.to_le_bytes());
            inbox.push(b"-");
            inbox.skip(1);
        }
        assert!(inbox.bytes.capacity() <= 4 * COMPACT, "{}", inbox.bytes.capacity());
    }
}
