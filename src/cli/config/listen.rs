//! Reads the sockets on which a process listens: the key `listen`. Opens none.
//!
//! The one rule: an address is a number or a path, so that no name has to be resolved.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use childminder::{Check, Probe, Ready};
use toml::Spanned;
use toml::de::DeValue;

use super::care::{self, Care};
use super::instances::{expand_path, numbers};
use super::read::{Reader, Scope};
use super::section::Section;
use super::show::{Quoted, show_creation};
use super::value::{self, Parsed};
use super::{socket, text, warnings};
use crate::cli::listen::{Address, Listener, Socket};
use crate::cli::paths::is_folder;
use crate::cli::safe_path::Creation;

const KEYS: [&str; 5] = ["tcp", "unix", "name", "mode", "owner"];

const LISTEN: &str = "a list of sockets, such as [\"tcp:127.0.0.1:8080\", \"unix:/run/web.sock\"]";
const SOCKET: &str = "\"tcp:ADDRESS:PORT\", \"unix:PATH\", or a table with `tcp` or `unix`";
const TCP: &str = "an address and a port from 1 to 65535, such as \"127.0.0.1:8080\" or \"[::]:8080\"; other names \
                   than localhost are not looked up";
const NAME: &str = "1 to 255 visible ASCII characters without a colon";
/// The name of a socket that has none, as in `sd_listen_fds_with_names(3)`.
const UNNAMED: &str = "unknown";

impl Listener {
    /// The listener of one instance.
    pub(super) fn expand(&self, base: &Path, instance: Option<u32>) -> Self {
        let Socket { address, new } = &self.socket;
        let address = match address {
            Address::Tcp(address) => Address::Tcp(*address),
            Address::Unix(path) => Address::Unix(expand_path(path, base, instance)),
        };
        Self { name: self.name.clone(), socket: Socket { address, new: *new } }
    }
}

/// As an element of the list.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, address) = match &self.socket.address {
            Address::Tcp(address) => ("tcp", address.to_string()),
            Address::Unix(path) => ("unix", path.to_string_lossy().into_owned()),
        };
        let (address, name) = (Quoted(&address), Quoted(&self.name));
        write!(f, "{{ {key} = {address}, name = {name}{} }}", show_creation(self.socket.new))
    }
}

impl Reader<'_, '_> {
    /// The sockets of a table. Their paths are kept as they are written.
    pub(super) fn listen(&mut self, section: &Section<'_>, instances: Option<u32>) -> Vec<Listener> {
        let Some(value) = section.value("listen") else { return Vec::new() };
        let list = value.get_ref().as_array().ok_or(LISTEN);
        let list = self.report.check(value.span(), "listen", value.get_ref(), list).into_iter().flatten();
        let mut listeners: Vec<Listener> = Vec::new();
        for element in list {
            let Some(listener) = self.listener(element) else { continue };
            let again = listeners.iter().any(|known| known.socket.address == listener.socket.address);
            if again {
                let message = format!("{} again, allowed is a socket once for a process", listener.socket.address);
                self.report.add(element.span(), message);
                continue;
            }
            self.check_listener(&element.span(), &listener, instances);
            listeners.push(listener);
        }
        listeners
    }

    /// Checks that the sockets of a table agree with the way in which it is ready and well.
    pub(super) fn check_sockets(&mut self, section: &Section<'_>, listeners: &[Listener], care: Option<&Care>) {
        let instance = section.value("instances").map(|_| 1);
        let Some(watch) = care.and_then(|care| care.watch(self.base, instance)) else { return };
        let last = 2 + listeners.len();
        if let (Ready::Fd(fd), Some(value)) = (&watch.ready, section.value("ready")) {
            if usize::try_from(*fd).is_ok_and(|fd| (3..=last).contains(&fd)) {
                let message =
                    format!("`ready` is \"fd:{fd}\", which is a socket of `listen`, allowed is one above {last}");
                self.report.add(value.span(), message);
            }
        }
        let ready = if let Ready::Probe(probe) = &watch.ready { Some(probe) } else { None };
        let health = watch.health.as_ref().map(|health| &health.probe);
        for (key, probe) in [("ready", ready), ("health", health)] {
            let asks = |listener: &Listener| match (&listener.expand(self.base, instance).socket.address, probe) {
                (Address::Tcp(own), Some(Probe { check: Check::Tcp(asked), .. })) => own == asked,
                (Address::Unix(own), Some(Probe { check: Check::Unix(asked), .. })) => own == asked,
                _ => false,
            };
            if let (true, Some(value)) = (listeners.iter().any(asks), section.value(key)) {
                let message =
                    format!("`{key}` connects to a socket of `listen`, which accepts even if the process does not");
                self.report.add(value.span(), message + ", allowed is another check");
            }
        }
    }

    fn listener(&mut self, element: &Spanned<DeValue<'_>>) -> Option<Listener> {
        let (span, value) = (element.span(), element.get_ref());
        let Some(table) = value.as_table() else {
            let address = value.as_str().ok_or(SOCKET).and_then(address);
            let address = self.report.check(span, "listen", value, address)?;
            return Some(Listener { name: UNNAMED.into(), socket: Socket { address, new: Creation::default() } });
        };
        let section = Section::new(self.report, "`listen`", table, &KEYS);
        let name = section.read(self.report, "name", name);
        let tcp = section.read(self.report, "tcp", |value| value.as_str().ok_or(TCP).and_then(tcp));
        let unix = section.read(self.report, "unix", value::some_text).map(PathBuf::from);
        let mode = section.read(self.report, "mode", value::mode);
        let (uid, gid) = section.read(self.report, "owner", value::owner).unwrap_or_default();
        let has = |key| section.value(key).is_some();
        let is_misspelt = !has("tcp") && (section.is_misspelt("tcp") || section.is_misspelt("unix"));
        if has("tcp") == has("unix") && !is_misspelt {
            let found = if has("tcp") { "both `tcp` and `unix`" } else { "neither `tcp` nor `unix`" };
            self.report.add(span, format!("{found} in `listen`, allowed is one of them"));
            return None;
        }
        if let Some(span) = section.span("mode").or_else(|| section.span("owner")).filter(|_| has("tcp")) {
            self.report.add(span, "a mode or an owner of a TCP socket, allowed are they for `unix`".into());
        }
        let address = tcp.map(Address::Tcp).or(unix.map(Address::Unix))?;
        let name = name.unwrap_or_else(|| UNNAMED.into());
        Some(Listener { name, socket: Socket { address, new: Creation { mode, uid, gid, folders: false } } })
    }

    /// Checks the path of a socket in the file system, for each instance.
    fn check_listener(&mut self, span: &Range<usize>, listener: &Listener, instances: Option<u32>) {
        let Address::Unix(written) = &listener.socket.address else { return };
        if self.scope >= Scope::Machine {
            text::numbered_path(self.report, span, &written.to_string_lossy(), instances.is_some());
        }
        if is_folder(written) {
            return self.report.add(span.clone(), format!("`listen` has the folder {written:?}, allowed is a socket"));
        }
        for instance in numbers(instances) {
            let placed = listener.expand(self.base, instance).socket;
            let Address::Unix(path) = &placed.address else { return };
            if let Err(what) = socket::check_length(path) {
                return self.report.add(span.clone(), format!("`listen` has {what}"));
            }
            let other = self.shared.sockets.insert(path.clone(), placed.new);
            if other.is_some_and(|other| other != placed.new) {
                let message = format!(
                    "`listen` has the socket {path:?} again, allowed is it with the same mode and owner wherever it \
                     is used"
                );
                return self.report.add(span.clone(), message);
            }
            let problem = || warnings::listener_problem(path, placed.new);
            if let Some(problem) = (self.scope >= Scope::Machine).then(problem).flatten() {
                let message = format!(
                    "`listen` has the socket {path:?}, and {problem}: the process cannot be started until it can be made"
                );
                return self.report.warn(span.clone(), message);
            }
        }
    }
}

fn address(text: &str) -> Parsed<Address> {
    match text.split_once(':') {
        Some(("tcp", address)) => tcp(address).map(Address::Tcp),
        Some(("unix", path)) if !path.trim().is_empty() && !path.contains('\0') => Ok(Address::Unix(path.into())),
        _ => Err(SOCKET),
    }
}

fn tcp(text: &str) -> Parsed<SocketAddr> {
    Some(text).filter(|text| !text.starts_with(':')).and_then(care::address).ok_or(TCP)
}

fn name(value: &DeValue<'_>) -> Parsed<String> {
    let allowed = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
    let text = value.as_str().filter(|name| (1..=255).contains(&name.len()) && name.bytes().all(allowed));
    text.map(str::to_owned).ok_or(NAME)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error, expect_round_trip, only_process, parse};
    use super::*;

    fn listen(list: &str) -> Vec<Listener> {
        only_process(&format!("[process.a]\ncommand = [\"true\"]\nlisten = {list}\n")).settings.listen.clone()
    }

    #[test]
    fn reads_addresses_and_paths() {
        let listeners = listen(
            "[\"tcp:localhost:80\", \"unix:run/x.sock\", { tcp = \"[::]:443\", name = \"https\" }, \
             { unix = \"/run/y.sock\", name = \"y\", mode = \"0660\", owner = \"0:0\" }]",
        );
        let shown: Vec<_> = listeners.iter().map(|listener| listener.socket.address.to_string()).collect();
        assert_eq!(shown, ["tcp:127.0.0.1:80", "unix:/tmp/run/x.sock", "tcp:[::]:443", "unix:/run/y.sock"]);
        let names: Vec<_> = listeners.iter().map(|listener| &*listener.name).collect();
        assert_eq!(names, ["unknown", "unknown", "https", "y"]);
        assert_eq!(listeners[3].socket.new, Creation { mode: Some(0o660), uid: Some(0), gid: Some(0), folders: false });
        let text =
            "[process.a]\ncommand = [\"true\"]\nlisten = [\"tcp:[::1]:80\", { unix = \"x\", mode = \"0600\" }]\n";
        expect_round_trip(&parse(text).unwrap());
    }

    #[test]
    fn instances_have_sockets_of_their_own_or_share_them() {
        let text = "[process.a]\ncommand = [\"true\"]\ninstances = 2\nlisten = [\"unix:/run/{instance}\", \"unix:/run/all\"]\n";
        let processes: Vec<_> = parse(text).unwrap().into_processes().collect();
        let shown = |index: usize| {
            let listeners = processes[index].settings.listen.iter();
            listeners.map(|listener| listener.socket.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(shown(0), ["unix:/run/1", "unix:/run/all"]);
        assert_eq!(shown(1), ["unix:/run/2", "unix:/run/all"]);
    }

    #[test]
    fn each_mistake_has_its_place() {
        for (list, expected) in [
            ("\"tcp:127.0.0.1:80\"", format!("3:10: `listen` is \"tcp:127.0.0.1:80\", allowed is {LISTEN}")),
            ("[80]", format!("3:11: `listen` is 80, allowed is {SOCKET}")),
            ("[\"udp:1.2.3.4:5\"]", format!("3:11: `listen` is \"udp:1.2.3.4:5\", allowed is {SOCKET}")),
            ("[\"unix:\"]", format!("3:11: `listen` is \"unix:\", allowed is {SOCKET}")),
            ("[\"tcp:example.org:80\"]", format!("3:11: `listen` is \"tcp:example.org:80\", allowed is {TCP}")),
            ("[{ tcp = \"1.2.3.4:0\" }]", format!("3:19: `tcp` is \"1.2.3.4:0\", allowed is {TCP}")),
            ("[{ name = \"x\" }]", "3:11: neither `tcp` nor `unix` in `listen`, allowed is one of them".into()),
            (
                "[{ tcp = \"1.2.3.4:5\", unix = \"x\" }]",
                "3:11: both `tcp` and `unix` in `listen`, allowed is one of them".into(),
            ),
            (
                "[{ tcp = \"1.2.3.4:5\", mode = \"0600\" }]",
                "3:32: a mode or an owner of a TCP socket, allowed are they for `unix`".into(),
            ),
            ("[{ unix = \"x\", name = \"a:b\" }]", format!("3:32: `name` is \"a:b\", allowed is {NAME}")),
            ("[{ unxi = \"x\" }]", "3:13: unknown key `unxi` in `listen`, the nearest known one is `unix`".into()),
            (
                "[\"tcp:1.2.3.4:5\", { tcp = \"1.2.3.4:5\" }]",
                "3:28: tcp:1.2.3.4:5 again, allowed is a socket once for a process".into(),
            ),
            ("[\"unix:/run/\"]", "3:11: `listen` has the folder \"/run/\", allowed is a socket".into()),
        ] {
            assert_eq!(error(&format!("listen = {list}")), expected);
        }
        for (rest, expected) in [
            ("ready = \"fd:4\"", "4:9: `ready` is \"fd:4\", which is a socket of `listen`, allowed is one above 4"),
            (
                "ready = { tcp = \"1.2.3.4:5\" }",
                "4:9: `ready` connects to a socket of `listen`, which accepts even if the process does not, allowed is \
                 another check",
            ),
            (
                "health = { unix = \"x\" }",
                "4:10: `health` connects to a socket of `listen`, which accepts even if the process does not, allowed \
                 is another check",
            ),
        ] {
            assert_eq!(error(&format!("listen = [\"tcp:1.2.3.4:5\", \"unix:x\"]\n{rest}")), expected);
        }
        let long = format!("/{}", "x".repeat(200));
        let message = error(&format!("listen = [\"unix:{long}\"]"));
        assert!(message.starts_with("3:11: `listen` has the path") && message.contains("of 201 bytes"), "{message}");
        let other = "listen = [\"unix:/run/x\"]\n[process.b]\ncommand = [\"true\"]\nlisten = [{ unix = \"/run/x\", mode = \"0600\" }]";
        let message = error(other);
        assert!(message.starts_with("6:11: `listen` has the socket \"/run/x\" again, allowed is it with"), "{message}");
    }
}
