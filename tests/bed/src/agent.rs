//! Runs commands in dom0 from the host.
//!
//! dom0's `/init` reads lines `<number> <limit in seconds>` from a virtio-serial port and answers
//! `<number> <status>`; the command's text and its output are files in the shared folder. Commands
//! run side by side.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::BedError;
use crate::error::AtPath;
use crate::log::printable;

/// The time by which a command's answer may exceed the command's own limit.
const GRACE: Duration = Duration::from_secs(15);
/// The interval at which a waiting caller checks that the bed is alive.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The result of a command in dom0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit status; 143 if the command was ended because it took too long.
    pub status: i32,
    /// The output, both streams together.
    pub stdout: String,
}

impl Output {
    /// Returns `true` if the command ended with status 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// The socket that QEMU connects to. It is in the abstract name space, so that no file remains.
pub(crate) struct Listener {
    listener: UnixListener,
    name: String,
}

impl Listener {
    pub fn new() -> Result<Self, BedError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cloister-bed-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bound = SocketAddr::from_abstract_name(&name).and_then(|address| UnixListener::bind_addr(&address));
        let listener = bound.at(format!("@{name}"))?;
        listener.set_nonblocking(true).at(format!("@{name}"))?;
        Ok(Self { listener, name })
    }

    /// Returns the name to pass to QEMU (`-chardev socket,path=…,abstract=on,tight=on`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns QEMU's connection, if it has connected.
    pub fn accept(&self, folder: &Path) -> Option<Agent> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).ok()?;
        Agent::new(stream, folder).ok()
    }
}

/// The host's end of the channel.
pub struct Agent {
    writer: Mutex<UnixStream>,
    shared: Arc<Shared>,
    folder: PathBuf,
    next: AtomicU32,
}

#[derive(Default)]
struct Shared {
    messages: Mutex<Messages>,
    changed: Condvar,
}

/// The messages of dom0 so far.
#[derive(Default)]
struct Messages {
    ready: bool,
    failures: Vec<String>,
    statuses: HashMap<u32, i32>,
}

impl Messages {
    fn line(&mut self, line: &str) {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (word, word.parse(), rest.parse()) {
            ("ready", ..) => self.ready = true,
            ("failed", ..) => self.failures.push(rest.to_owned()),
            (_, Ok(number), Ok(status)) => {
                self.statuses.insert(number, status);
            }
            // Nothing else is ever sent. After a damaged line, a command times out.
            _ => {}
        }
    }
}

impl Agent {
    fn new(stream: UnixStream, folder: &Path) -> Result<Self, BedError> {
        let commands = folder.join("commands");
        std::fs::create_dir_all(&commands).at(&commands)?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let reader = BufReader::new(stream.try_clone().at("the agent's socket")?);
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                theirs.lock().line(&line);
                theirs.changed.notify_all();
            }
        });
        Ok(Self { writer: Mutex::new(stream), shared, folder: commands, next: AtomicU32::new(1) })
    }

    /// Returns `true` if dom0 is ready, or the reason why it could not start.
    pub fn ready(&self) -> Result<bool, String> {
        let messages = self.shared.lock();
        match messages.failures.first() {
            Some(reason) => Err(reason.clone()),
            None => Ok(messages.ready),
        }
    }

    /// Runs a command with `sh` in dom0, for at most `limit` of dom0's time and `patience` of this
    /// machine's. Calls `alive` from time to time. Returns `None` if no answer came in time.
    pub fn run(
        &self,
        command: &str,
        limit: Duration,
        patience: Duration,
        alive: &dyn Fn() -> Result<(), BedError>,
    ) -> Result<Option<Output>, BedError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let script = self.folder.join(format!("{number}.sh"));
        std::fs::write(&script, format!("{command}\n")).at(&script)?;
        let line = format!("{number} {}\n", limit.as_secs().max(1));
        let sent = self.writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        if sent.is_err() {
            alive()?;
            return Ok(None);
        }
        let Some(status) = self.status(number, patience + GRACE, alive)? else { return Ok(None) };
        let path = self.folder.join(format!("{number}.out"));
        let output = std::fs::read(&path).at(&path)?;
        Ok(Some(Output { status, stdout: printable(&output) }))
    }

    fn status(
        &self,
        number: u32,
        limit: Duration,
        alive: &dyn Fn() -> Result<(), BedError>,
    ) -> Result<Option<i32>, BedError> {
        let until = Instant::now() + limit;
        loop {
            let messages = self.shared.lock();
            let (mut messages, _) = self
                .shared
                .changed
                .wait_timeout_while(messages, CHECK_INTERVAL, |messages| !messages.statuses.contains_key(&number))
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = messages.statuses.remove(&number) {
                return Ok(Some(status));
            }
            drop(messages);
            alive()?;
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_from_dom0_are_understood() {
        let mut messages = Messages::default();
        for line in ["ready", "7 0", "8 143", "failed xenstored does not start", "nonsense", "9 x"] {
            messages.line(line);
        }
        assert!(messages.ready);
        assert_eq!(messages.statuses, HashMap::from([(7, 0), (8, 143)]));
        assert_eq!(messages.failures, ["xenstored does not start"]);
    }

    /// Behaves as dom0's `/init` at the other end of the channel.
    #[test]
    fn a_command_is_sent_by_file_and_its_output_read_back() {
        let folder = tempfile::tempdir().expect("folder");
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let agent = Agent::new(ours, folder.path()).expect("agent");
        let commands = folder.path().join("commands");
        let dom0 = std::thread::spawn(move || {
            let mut lines = BufReader::new(theirs.try_clone().expect("clone")).lines();
            let line = lines.next().expect("a line").expect("read");
            assert_eq!(line, "1 5");
            assert_eq!(std::fs::read_to_string(commands.join("1.sh")).expect("script"), "echo hi\n");
            std::fs::write(commands.join("1.out"), "hi\r\n").expect("output");
            (&theirs).write_all(b"1 3\n").expect("answer");
        });
        let output = agent
            .run("echo hi", Duration::from_secs(5), Duration::from_secs(5), &|| Ok(()))
            .expect("alive")
            .expect("in time");
        assert_eq!(output, Output { status: 3, stdout: "hi\n".to_owned() });
        dom0.join().expect("dom0");
    }

    #[test]
    fn a_dead_bed_ends_the_wait() {
        let folder = tempfile::tempdir().expect("folder");
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let agent = Agent::new(ours, folder.path()).expect("agent");
        let dead = || Err(BedError::Stopped("testing".to_owned()));
        assert!(agent.run("true", Duration::from_secs(60), Duration::from_secs(60), &dead).is_err());
    }
}
