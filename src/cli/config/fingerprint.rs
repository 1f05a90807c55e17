//! The hashes by which a reload sees what has changed in a process. Changes nothing.
//!
//! The one rule: equal settings are written as equal text, so that a hash of the text stands for
//! them.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use childminder::Ready;

use super::process::ProcessConfig;
use super::render::Values;

/// What a reload has to do for a process that is in both versions of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    Nothing,
    /// Give it the new policy and the other settings that can change, and let it run on.
    Policy,
    /// Restart it with the new command.
    Process,
}

/// The hashes by which a reload sees what has changed in a process. They are far smaller than the
/// settings themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprint {
    settings: u64,
    all: u64,
}

impl Fingerprint {
    /// What has changed between these settings and newer ones of the same name.
    pub(crate) fn change(self, newer: Self) -> Change {
        if self.settings != newer.settings {
            Change::Process
        } else if self.all != newer.all {
            Change::Policy
        } else {
            Change::Nothing
        }
    }
}

/// The hash of a text. It can stand for settings, because equal settings are written as equal text.
#[derive(Default)]
struct Text(DefaultHasher);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl ProcessConfig {
    /// The hashes of these settings.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let (mut settings, mut all) = (Text::default(), Text::default());
        // Writing to a hash does not fail.
        let _ = self.settings.write(&mut settings, Values::Shown);
        // A running process cannot be given another descriptor or socket.
        let needs = self
            .watch
            .as_ref()
            .map(|watch| (matches!(watch.ready, Ready::Fd(_) | Ready::Notify), &watch.ready, watch.watchdog));
        if let Some((is_said_by_itself, ready, watchdog)) = needs {
            let _ = write!(settings, "{:?}{watchdog:?}", is_said_by_itself.then_some(ready));
        }
        let _ = self.write(&mut all, Values::Shown);
        Fingerprint { settings: settings.0.finish(), all: all.0.finish() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::only_process;
    use super::*;

    #[test]
    fn a_reload_tells_apart_what_changed() {
        let read = |rest: &str| only_process(&format!("[process.a]\ncommand = [\"true\"]\n{rest}"));
        let read = |rest: &str| read(rest).fingerprint();
        let old = read("");
        assert_eq!(old.change(read("# nothing\n")), Change::Nothing);
        assert_eq!(old.change(read("kill-time = 5.0")), Change::Nothing);
        assert_eq!(old.change(read("kill-time = 6")), Change::Policy);
        assert_eq!(old.change(read("autostart = false")), Change::Policy);
        assert_eq!(old.change(read("raw = true")), Change::Policy);
        assert_eq!(old.change(read("leftovers = \"leave\"")), Change::Policy);
        for rest in [
            "environment = { A = \"1\" }",
            "umask = \"077\"",
            "limits = { core = 0 }",
            "directory = \"/\"",
            "stdout = \"null\"",
            "user = 0",
            "contain = \"group\"",
            "listen = [\"unix:/run/x\"]",
        ] {
            assert_eq!(old.change(read(rest)), Change::Process, "{rest}");
        }
    }
}
