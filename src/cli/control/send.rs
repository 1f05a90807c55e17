//! `childminder send` and `childminder attach`: they connect the stdin of this command, or its
//! terminal, to a process.
//!
//! The one rule: the terminal has its own settings again when the command ends, however it ends
//! by itself.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use serde_json::Value;

use super::client::owner_of;
use super::place::Place;
use super::protocol::{self, Action, Request};
use super::show::terminal_size;
use super::supervisor::{self, PATIENCE, Supervisor};
use crate::cli::config::FileName;
use crate::cli::failure::Failure;
use crate::cli::options::path_of;
use crate::cli::output;

/// The commands of this file.
pub(crate) const COMMANDS: [&str; 2] = ["send", "attach"];

/// The number of bytes of a request.
const PIECE: usize = 8 * 1024;
/// The time between two looks at the size of the terminal.
const LOOK: Duration = Duration::from_secs(1);
/// Ctrl-P and Ctrl-Q, which leave the process.
const LEAVE: [u8; 2] = [0x10, 0x11];

const SEND: &str = "\
childminder send writes its stdin to the stdin of a process.

usage: childminder send [OPTION]... NAME

      --close         closes the stdin of the process after that; a terminal gets Ctrl-D
      --socket PATH   where the supervisor listens (default: what the file says)
      --owner USER    trusts a supervisor of this user, too, beside root's and your own
  -c, --config FILE   the supervisor's file (childminder.toml)
  -h, --help          this text

The file of the supervisor has to say `stdin = \"pipe\"` or `tty = true` for the process. It ends with 0 if all was taken,
1 if it was refused, 2 for a mistake in the command line or the file, and 125 if no supervisor answers.
";

const ATTACH: &str = "\
childminder attach connects this terminal to a process: it shows the output as it comes, and what is typed goes to the
stdin of the process. Ctrl-P Ctrl-Q leaves, and the process goes on.

usage: childminder attach [OPTION]... NAME

      --socket PATH   where the supervisor listens (default: what the file says)
      --owner USER    trusts a supervisor of this user, too, beside root's and your own
  -c, --config FILE   the supervisor's file (childminder.toml)
  -h, --help          this text

With `tty = true` the process has a terminal, which gets the size of this one, and each key at once, Ctrl-C too. With
`stdin = \"pipe\"` it gets whole lines, and Ctrl-C ends this command. Otherwise only its output is shown. It ends with 0
when it has left, 1 if it was refused, 2 for a mistake in the command line or the file, and 125 if no supervisor answers.
";

/// The help of one of [`COMMANDS`].
pub(crate) fn help(command: &str) -> &'static str {
    if command == "send" { SEND } else { ATTACH }
}

struct Arguments {
    name: String,
    close: bool,
    place: Place,
    owner: Option<u32>,
}

/// Runs one of [`COMMANDS`].
pub(crate) fn main(command: &str, arguments: Parser) -> Result<u8, Failure> {
    let Some(arguments) = parse(command, arguments)? else {
        output::say(help(command))?;
        return Ok(0);
    };
    if command == "send" { send(&arguments) } else { attach(&arguments) }
}

fn parse(command: &str, mut arguments: Parser) -> Result<Option<Arguments>, Failure> {
    let (mut name, mut close) = (None, false);
    let (mut socket, mut file, mut owner) = (None, FileName::default(), None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Long("socket") => socket = Some(PathBuf::from(path_of(&mut arguments, "socket")?)),
            Arg::Long("owner") => owner = Some(owner_of(&arguments.value()?.string()?)?),
            Arg::Short('c') | Arg::Long("config") => file = FileName::named(path_of(&mut arguments, "config")?.into()),
            Arg::Long("close") if command == "send" => close = true,
            Arg::Value(value) if name.is_none() => name = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let name = name.ok_or_else(|| Failure::Usage("which process?".into()))?;
    Ok(Some(Arguments { name, close, place: Place::find(socket, &file)?, owner }))
}

impl Arguments {
    fn connect(&self) -> Result<Supervisor, Failure> {
        Supervisor::connect(&self.place, self.owner)
    }

    fn request(&self, action: Action, data: &[u8]) -> Vec<u8> {
        let names = vec![self.name.clone()];
        Request { names, data: data.to_vec(), ..Request::new(action) }.to_line()
    }

    /// Sends a request that is answered at once. `false` if it was refused, which has been
    /// reported.
    fn ask(&self, supervisor: &mut Supervisor, action: Action, data: &[u8]) -> Result<bool, Failure> {
        supervisor.send(&self.request(action, data));
        let answer = supervisor.receive(Some(supervisor::now() + PATIENCE))?;
        let is_done = answer["ok"] == true;
        if !is_done {
            output::complain(answer["error"].as_str().unwrap_or("it was refused without a reason"));
        }
        Ok(is_done)
    }
}

fn send(arguments: &Arguments) -> Result<u8, Failure> {
    let mut supervisor = arguments.connect()?;
    let mut piece = [0; PIECE];
    loop {
        let count = match io::stdin().lock().read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Other(format!("cannot read stdin: {error}"))),
        };
        let end = count == 0 && arguments.close;
        // Even an empty input shows whether the process can be reached.
        if !arguments.ask(&mut supervisor, Action::Send { end }, &piece[..count])? {
            return Ok(1);
        }
        if count == 0 {
            return Ok(0);
        }
    }
}

fn attach(arguments: &Arguments) -> Result<u8, Failure> {
    let mut output_of = arguments.connect()?;
    let mut input_to = arguments.connect()?;
    output_of.send(&arguments.request(Action::Attach, b""));
    let first = output_of.receive(Some(supervisor::now() + PATIENCE))?;
    if first.get("attached").is_none() {
        output::complain(first["error"].as_str().unwrap_or("it was refused without a reason"));
        return Ok(1);
    }
    let (has_terminal, has_pipe) = (first["input"] == "tty", first["input"] == "pipe");
    let terminal = if has_terminal || has_pipe { Settings::set(has_terminal) } else { None };
    if io::stderr().is_terminal() {
        let how = if has_terminal || has_pipe { "Ctrl-P Ctrl-Q" } else { "it has no input from here; Ctrl-C" };
        eprint!("childminder: attached to {}; {how} leaves\r\n", arguments.name);
    }
    let result = pass(arguments, &mut output_of, &mut input_to, has_terminal, has_terminal || has_pipe);
    drop(terminal);
    if io::stderr().is_terminal() {
        eprintln!("\nchildminder: left {}", arguments.name);
    }
    result
}

/// Passes bytes in both directions until the user leaves.
fn pass(
    arguments: &Arguments,
    output_of: &mut Supervisor,
    input_to: &mut Supervisor,
    has_terminal: bool,
    has_input: bool,
) -> Result<u8, Failure> {
    let (mut reads, mut size, mut held) = (has_input, None, Vec::new());
    loop {
        if has_terminal && size != Some(terminal_size()) {
            let (columns, rows) = terminal_size();
            size = Some((columns, rows));
            let fit = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
            let action = Action::Resize { rows: fit(rows), columns: fit(columns) };
            // The process may be between two runs.
            input_to.send(&arguments.request(action, b""));
            let _ = input_to.receive(Some(supervisor::now() + PATIENCE))?;
        }
        let stdin = io::stdin();
        let look = Timespec::try_from(LOOK).ok();
        let (mut from_user, mut from_process) = (false, output_of.has_line());
        if !from_process {
            let mut fds = vec![PollFd::new(output_of.stream(), PollFlags::IN)];
            if reads {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
            match poll(&mut fds, look.as_ref().filter(|_| has_terminal)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::Other(format!("cannot wait: {}", io::Error::from(error)))),
            }
            from_process = !fds[0].revents().is_empty();
            from_user = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        }
        if from_process {
            let answer = output_of.receive(Some(supervisor::now() + PATIENCE))?;
            let Some(data) = answer.as_object().and_then(protocol::decode) else { return Ok(ended(&answer)) };
            let mut stdout = io::stdout().lock();
            if stdout.write_all(&data).and_then(|()| stdout.flush()).is_err() {
                return Ok(0);
            }
        }
        if from_user {
            let mut piece = [0; PIECE];
            let count = rustix::io::read(&stdin, &mut piece).unwrap_or(0);
            let (bytes, leaves) = without_leave(&mut held, &piece[..count]);
            if !bytes.is_empty() && !arguments.ask(input_to, Action::Send { end: false }, &bytes)? {
                return Ok(1);
            }
            if leaves {
                return Ok(0);
            }
            // A closed stdin leaves a process that is only looked at.
            reads = count > 0;
        }
    }
}

/// The exit code for the answer that ends it: the process was removed, or the supervisor ends.
fn ended(answer: &Value) -> u8 {
    u8::from(answer["ok"] != true)
}

/// The bytes without the ones that leave, and whether they were there. A first byte of them that
/// ends the input is held back.
fn without_leave(held: &mut Vec<u8>, input: &[u8]) -> (Vec<u8>, bool) {
    let mut bytes = std::mem::take(held);
    bytes.extend_from_slice(input);
    if let Some(at) = bytes.windows(2).position(|pair| pair == LEAVE) {
        bytes.truncate(at);
        return (bytes, true);
    }
    if !input.is_empty() && bytes.last() == Some(&LEAVE[0]) {
        bytes.pop();
        held.push(LEAVE[0]);
    }
    (bytes, false)
}

/// The settings of the terminal before this command has changed them. Dropping this restores them.
struct Settings(Termios);

impl Settings {
    /// Sets the terminal on stdin, if it is one: with `raw`, each key is passed on at once.
    /// Otherwise the user edits lines, and Ctrl-Q ends one, too.
    fn set(raw: bool) -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut settings = before.clone();
        if raw {
            settings.make_raw();
            // The process ends its lines without CR, so that its logs have none.
            settings.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        } else {
            settings.input_modes -= rustix::termios::InputModes::IXON;
            settings.local_modes |= LocalModes::ICANON;
            settings.special_codes[SpecialCodeIndex::VEOL] = LEAVE[1];
        }
        tcsetattr(io::stdin(), OptionalActions::Now, &settings).ok()?;
        Some(Self(before))
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_leave_wherever_they_come_apart() {
        let mut held = Vec::new();
        let mut pass = |input: &[u8]| without_leave(&mut held, input);
        assert_eq!(pass(b"abc"), (b"abc".to_vec(), false));
        assert_eq!(pass(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(pass(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(pass(b"\x11x"), (b"".to_vec(), true));
        assert_eq!(pass(b"x\x10\x11y"), (b"x".to_vec(), true));
    }
}
