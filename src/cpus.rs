//! Sets of processors, and the text form in which Linux writes them.
//!
//! It binds no process and reads nothing. The one rule: a set is in ascending order, and each
//! processor is in it once.

use std::error::Error;
use std::fmt;
use std::io;
use std::str::FromStr;

use crate::io_error::into_io_error;

/// A set of processors, by the numbers that Linux gives them (`sched_setaffinity(2)`).
///
/// A hyper-thread counts as a processor. It is written as in `taskset -c` and in `cpuset(7)`:
///
/// ```
/// use childminder::CpuSet;
///
/// let cpus: CpuSet = "0-2,6".parse()?;
/// assert_eq!(cpus.iter().collect::<Vec<_>>(), [0, 1, 2, 6]);
/// assert_eq!(cpus.to_string(), "0-2,6");
/// # Ok::<(), childminder::CpuSetError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CpuSet(Vec<u32>);

/// The error of a text that is no list of processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuSetError(String);

/// The highest number of a processor, which is beyond that of every kernel.
const HIGHEST: u32 = 65_535;

impl CpuSet {
    /// Returns the number of processors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether no processor is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the processors in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<T: IntoIterator<Item = u32>>(cpus: T) -> Self {
        let mut cpus: Vec<u32> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        Self(cpus)
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        let number = |digits: &str| digits.trim().parse::<u32>().ok().filter(|number| *number <= HIGHEST);
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.trim().split(',').map(range).collect();
        ranges.map(|ranges| ranges.into_iter().flatten().collect()).ok_or_else(|| CpuSetError(text.to_owned()))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.0[..];
        let mut separator = "";
        while let Some(first) = rest.first() {
            let len = rest.iter().zip(*first..).take_while(|(cpu, expected)| *cpu == expected).count();
            match rest[..len].last() {
                Some(last) if last > first => write!(f, "{separator}{first}-{last}")?,
                _ => write!(f, "{separator}{first}")?,
            }
            separator = ",";
            rest = &rest[len..];
        }
        Ok(())
    }
}

impl fmt::Display for CpuSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no list of processors such as `0-3,6`", self.0.escape_debug())
    }
}

impl Error for CpuSetError {}

into_io_error!(CpuSetError, |_| io::ErrorKind::InvalidInput);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        let read = |text: &str| text.parse::<CpuSet>().map(|cpus| cpus.to_string());
        for (text, written) in [("0", "0"), ("3,1,2,1", "1-3"), ("0-3,8-9\n", "0-3,8-9"), ("5, 7", "5,7")] {
            assert_eq!(read(text), Ok(written.to_owned()), "{text}");
        }
        for text in ["", ",", "1-", "-1", "3-1", "a", "0,,1", "0-70000", "99999999999"] {
            assert_eq!(read(text), Err(CpuSetError(text.to_owned())), "{text}");
        }
        assert_eq!(CpuSet::default().to_string(), "");
    }
}
