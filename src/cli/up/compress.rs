//! Compresses rotated files by the program gzip(1), one at a time and with the lowest priority.
//!
//! gzip is an ordinary child of the supervisor's reactor, so the supervisor never waits for it. It
//! gets both files as its stdin and stdout, and no path at which another user could put another
//! file.
//!
//! The one rule: a rotated file is removed only when its compressed form is complete and in its
//! place. Until then a failure, or the end of the supervisor, leaves the file as it is.

use std::path::Path;
use std::rc::Rc;

use childminder::{Event, Exit, ProcessId, Reactor, Stdio};

use super::{Stage, Up};
use crate::cli::child;
use crate::cli::safe_path::Uncompressed;

/// The bytes of gzip's own messages that are kept.
const MESSAGE: usize = 1024;

/// What is being compressed.
#[derive(Debug, Default)]
pub(super) struct Compressor {
    job: Option<Box<Job>>,
    /// Whether the last attempt has failed, and this was told.
    failed: bool,
}

#[derive(Debug)]
struct Job {
    path: Rc<Path>,
    from: Uncompressed,
    process: ProcessId,
    message: Vec<u8>,
}

impl Up {
    /// Starts to compress the next file, if there is one and no other is under way.
    pub(super) fn settle_compression(&mut self, reactor: &mut Reactor) {
        while self.compressor.job.is_none() && self.stage == Stage::Running {
            let Some((path, next)) = self.reporter().files.next_uncompressed() else { return };
            let started = next.and_then(|from| {
                let mut gzip = child::command("gzip", None);
                child::confine(&mut gzip, true);
                let (stdin, stdout) = (from.file().try_clone()?, from.to().try_clone()?);
                gzip.arg("-c").stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::piped()).nice(19);
                match reactor.spawn_process(&gzip) {
                    Ok(process) => Ok(Job { path: Rc::clone(&path), from, process, message: Vec::new() }),
                    Err(error) => {
                        from.give_up();
                        Err(std::io::Error::other(error))
                    }
                }
            });
            match started {
                Ok(job) => self.compressor.job = Some(job.into()),
                Err(error) => self.not_compressed(&path, &error.to_string()),
            }
        }
    }

    /// Whether an event was meant for this.
    pub(super) fn heed_compression(&mut self, event: &Event<'_>) -> bool {
        let Some(job) = &mut self.compressor.job else { return false };
        match *event {
            Event::Data { process, data, .. } if process == job.process => {
                let room = MESSAGE.saturating_sub(job.message.len());
                job.message.extend_from_slice(&data[..data.len().min(room)]);
            }
            Event::Exited { process, .. } | Event::FdClosed { process, .. } if process == job.process => {}
            Event::Ended { process, exit } if process == job.process => self.compressed(exit),
            _ => return false,
        }
        true
    }

    fn compressed(&mut self, exit: &Exit) {
        let Some(job) = self.compressor.job.take() else { return };
        let Job { path, from, message, .. } = *job;
        if !exit.success() {
            from.give_up();
            let message = String::from_utf8_lossy(&message);
            return self.not_compressed(&path, &format!("{exit}; {}", message.trim_end()));
        }
        match from.finish() {
            Ok(()) => {
                self.compressor.failed = false;
                // There may be others.
                self.reporter().files.note_rotated(&path);
            }
            Err(error) => self.not_compressed(&path, &error.to_string()),
        }
    }

    fn not_compressed(&mut self, path: &Path, why: &str) {
        if !std::mem::replace(&mut self.compressor.failed, true) {
            let path = path.display();
            self.reporter().say(&format!("{path}: a rotated file stays as it is, because gzip has failed: {why}"));
            // The messages of this turn may have been written already.
            self.reporter().console.flush();
        }
    }

    /// Ends what is under way. The file is compressed after the next start.
    pub(super) fn give_up_compression(&mut self, reactor: &mut Reactor) {
        let Some(job) = self.compressor.job.take() else { return };
        if let Some(mut process) = reactor.process(job.process) {
            let _ = process.signal(libc::SIGKILL);
        }
        job.from.give_up();
    }
}
