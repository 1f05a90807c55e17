//! What a child writes to one of its descriptors, and all that it has written at its end.
//!
//! The one rule: a call takes what it returns, and nothing if it returns an error.

use std::io;

use super::conversation::{Conversation, Found};
use super::core::{Core, Limit};
use super::error::TalkError;
use crate::escaped::Escaped;
use crate::exit::Exit;
use crate::job::DRAIN_TIME;
use crate::reactor::Reactor;

/// One of the outputs of a [`Child`](crate::Child): see
/// [`Child::stdout`](crate::Child::stdout).
///
/// It is also an [`io::Read`]. These methods do not see the bytes that a reader on top of that has
/// buffered, such as a `BufReader`.
#[derive(Debug, Clone, Copy)]
pub struct ChildOutput<'a> {
    core: &'a Core,
    fd: i32,
}

impl<'a> ChildOutput<'a> {
    pub(super) fn new(core: &'a Core, fd: i32) -> Self {
        Self { core, fd }
    }

    /// Makes `None`, which means that the text cannot come, an error.
    fn found<T>(self, wanted: &dyn Fn() -> String, found: Option<T>) -> Result<T, TalkError> {
        if let Some(found) = found {
            return Ok(found);
        }
        let (program, wanted) = (self.core.program(), wanted());
        if !self.core.with(|conversation, _| conversation.is_closed(self.fd)) {
            let unread = self.core.with(|conversation, _| conversation.unread(self.fd).len());
            return Err(TalkError::Full { program, wanted, unread });
        }
        // As a rule the exit follows the end of the output.
        let exit = self
            .core
            .wait_for(Limit::Given(DRAIN_TIME), |conversation, _| conversation.poll_exit())?
            .ok()
            .map(Box::new);
        let (unread, stderr) = self.core.with(|conversation, _| conversation.tails(self.fd));
        Err(TalkError::Closed { program, wanted, exit, unread, stderr })
    }

    /// Reads a line, without its newline. A last line without a newline counts, too. Bytes that are
    /// not UTF-8 become U+FFFD; [`read_until`](Self::read_until) gives the bytes as they are.
    /// `None` at the end of the output.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Full`], [`TalkError::Wait`].
    pub fn read_line(self) -> Result<Option<String>, TalkError> {
        let wanted = || "a line".into();
        let look = |conversation: &mut Conversation, reactor: &mut Reactor| conversation.poll_line(reactor, self.fd);
        match self.core.until(self.fd, &wanted, look)? {
            None if !self.core.with(|conversation, _| conversation.is_closed(self.fd)) => self.found(&wanted, None),
            line => Ok(line),
        }
    }

    /// Reads up to a text, and returns all that came, the text included.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Full`], [`TalkError::Wait`], and
    /// [`TalkError::Closed`] if the output ends without the text.
    pub fn read_until(self, text: impl AsRef<[u8]>) -> Result<Vec<u8>, TalkError> {
        let text = text.as_ref();
        let mut found = self.first_of(&[text])?.before;
        found.extend_from_slice(text);
        Ok(found)
    }

    /// Reads up to the text that is complete first, and tells which one it was and what came before
    /// it. Of several that are complete at the same byte, the first in the list counts. An empty
    /// text is found at once.
    ///
    /// # Errors
    ///
    /// As [`read_until`](Self::read_until).
    pub fn expect(self, texts: &[&str]) -> Result<Found, TalkError> {
        let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        self.first_of(&texts)
    }

    fn first_of(self, texts: &[&[u8]]) -> Result<Found, TalkError> {
        let wanted = || {
            let quoted: Vec<String> = texts.iter().map(|text| format!("{:?}", Escaped(text).to_string())).collect();
            if quoted.is_empty() { "one of no texts".into() } else { quoted.join(" or ") }
        };
        let look =
            |conversation: &mut Conversation, reactor: &mut Reactor| conversation.poll_text(reactor, self.fd, texts);
        let found = self.core.until(self.fd, &wanted, look)?;
        self.found(&wanted, found)
    }

    /// Reads all that comes until the output ends.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Wait`].
    pub fn read_to_end(self) -> Result<Vec<u8>, TalkError> {
        let wanted = || "the end of the output".into();
        self.core.until(self.fd, &wanted, |conversation, reactor| conversation.poll_to_end(reactor, self.fd))
    }
}

/// The errors are those of [`ChildOutput::read_line`].
impl io::Read for ChildOutput<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = || "output".into();
        let look =
            |conversation: &mut Conversation, reactor: &mut Reactor| conversation.poll_read(reactor, self.fd, buffer);
        Ok(self.core.until(self.fd, &wanted, look)?)
    }
}

/// What a [`Child`](crate::Child) has written, and how it ended: see
/// [`Child::output`](crate::Child::output).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// The program, or the programs of the pipeline in the order of its commands.
    pub programs: Vec<String>,
    /// How the process ended, or the last one of a pipeline.
    pub exit: Exit,
    /// How each process of a pipeline ended, in the order of its commands.
    pub exits: Vec<Exit>,
    /// What was not read before of the stdout of the process, or of the last one of a pipeline.
    pub stdout: Vec<u8>,
    /// What was not read before of the stderr of all processes.
    pub stderr: Vec<u8>,
    /// Whether other processes still held the pipes 20 ms after the exit. Some of their output may
    /// be missing then. The output of the processes themselves is complete.
    pub pipes_left_open: bool,
}

impl Captured {
    /// Makes an exit without success an error, which shows the end of stderr. Of a pipeline, the
    /// last process without success counts, as with the shell's `pipefail`: also one that SIGPIPE
    /// has ended because the next one did not read all.
    ///
    /// # Errors
    ///
    /// [`TalkError::Failed`], which names the process.
    pub fn check(self) -> Result<Self, TalkError> {
        let failed = self.programs.iter().zip(&self.exits).rfind(|(_, exit)| !exit.success());
        match failed.map(|(program, exit)| (program.clone(), Box::new(*exit))) {
            Some((program, exit)) => Err(TalkError::Failed { program, exit, stderr: self.stderr }),
            None => Ok(self),
        }
    }
}
